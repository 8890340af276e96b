"""Pictures for experiments on certificates, which must hold for any picture."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.bundle import Bundle
from models.data.datasets import DataSetError, load
from tests.soundness.forms import DATA

Picture = NDArray[np.uint8]


def digits(seed: int = 20) -> Iterator[Picture]:
    """Endless pictures: scikit-learn's digits as 28×28×1, blended so that some are hard."""
    from sklearn.datasets import load_digits

    images = load_digits().images
    rng = np.random.default_rng(seed)
    while True:
        one, other = rng.choice(len(images), 2, replace=False)
        share = rng.choice([1.0, 0.8, 0.65, 0.55])
        blend = (share * images[one] + (1 - share) * images[other]) / 16 * 255
        small = Image.fromarray(blend.astype(np.uint8)).resize((20, 20), Image.Resampling.BICUBIC)
        canvas = Image.new("L", (28, 28))
        canvas.paste(small, (4, 4))
        yield np.asarray(canvas)[..., None]


def photographs(side: int, seed: int = 20) -> Iterator[Picture]:
    """Endless pictures: random squares of scikit-learn's two photographs as side×side×3."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(seed)
    while True:
        photo = photos[rng.integers(len(photos))]
        size = int(rng.integers(2 * side, min(photo.size)))
        left, top = (int(rng.integers(whole - size + 1)) for whole in photo.size)
        part = photo.crop((left, top, left + size, top + size))
        yield np.asarray(part.resize((side, side), Image.Resampling.BILINEAR))


def pictures_for(bundle: Bundle) -> tuple[str, Iterator[Picture]]:
    """Pictures of a model's own size: its data set's test pictures if available, or else others.

    Returns:
        What they are, and the pictures.
    """
    manifest = bundle.manifest
    name = manifest.training.get("recipe", {}).get("dataset", "")
    channels, height, _ = manifest.input.shape
    if DATA is not None:
        try:
            return f"{name}'s test pictures", iter(load(name, DATA, "test").images)
        except DataSetError as error:
            print(f"{manifest.name}: {error}; other pictures are taken")
    if channels == 1:
        return "handwritten digits", digits()
    return "parts of photographs", photographs(height)
