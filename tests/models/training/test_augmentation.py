import torch

from models.training.augmentation import augment
from models.training.recipe import Augmentation


def spots() -> torch.Tensor:
    """64 pictures of 7 by 9 with one bright pixel in the middle."""
    pictures = torch.zeros(64, 1, 7, 9)
    pictures[:, :, 3, 4] = 0.7
    return pictures


def test_without_augmentation_nothing_changes() -> None:
    pictures = spots()
    assert augment(pictures, Augmentation()) is pictures


def test_shifts_are_whole_pixels_and_differ_between_pictures() -> None:
    torch.manual_seed(0)
    shifted = augment(spots(), Augmentation(shift=2))
    places = set()
    for picture in shifted[:, 0]:
        row, column = divmod(int(picture.argmax()), 9)
        assert abs(float(picture[row, column]) - 0.7) < 1e-5
        assert abs(float(picture.sum()) - 0.7) < 1e-4
        places.add((row - 3, column - 4))
    assert {row for row, _ in places} == {column for _, column in places} == {-2, -1, 0, 1, 2}


def test_pixels_that_come_in_are_black() -> None:
    torch.manual_seed(0)
    shifted = augment(torch.ones(64, 3, 6, 6), Augmentation(shift=3))
    assert shifted.shape == (64, 3, 6, 6)
    least = shifted.sum(dim=(1, 2, 3)).min()
    assert abs(float(least) - 3 * 3 * 3) < 1e-3


def test_a_flip_exchanges_left_and_right_in_some_pictures() -> None:
    torch.manual_seed(0)
    pictures = torch.zeros(64, 1, 4, 6)
    pictures[:, :, 1, 0] = 1
    flipped = augment(pictures, Augmentation(flip=True))
    left, right = flipped[:, 0, 1, 0] > 0.99, flipped[:, 0, 1, 5] > 0.99
    assert bool((left ^ right).all())
    assert 16 < int(right.sum()) < 48


def test_turned_pictures_keep_shape_in_pictures_that_are_not_square() -> None:
    # A centred disc looks the same from every side, whatever the picture's proportions.
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(20) - 9.5, torch.arange(40) - 19.5, indexing="ij")
    disc = (7 - (rows**2 + columns**2).sqrt()).clamp(0, 1)
    turned = augment(disc.repeat(16, 1, 1, 1), Augmentation(rotation=180))
    assert float((turned - disc).abs().max()) < 0.25
    stretched = augment(disc.repeat(16, 1, 1, 1), Augmentation(stretch=0.3))
    assert float((stretched - disc).abs().max()) > 0.9


def test_a_quarter_turn_moves_a_bar() -> None:
    torch.manual_seed(0)
    bar = torch.zeros(200, 1, 21, 21)
    bar[:, :, 10, 2:19] = 1
    turned = augment(bar, Augmentation(rotation=90))
    upright = turned[:, 0, 3:18, 10].mean(dim=1)
    assert float(upright.max()) > 0.9
    assert float(upright.min()) < 0.1
