import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.bundle import CARD, WEIGHTS, Manifest, read_bundle
from models.certification.certificates import construction_scale
from models.data.datasets import DataSet, load
from models.evaluation.attacks import pgd, plain_scores
from models.execution import PRECISIONS, Precision
from models.files import locked, write_whole
from models.network import TEMPLATE, load_network
from models.sensitivity.modules import encoder_sensitivity
from models.training import checkpoint, loop
from models.training.checks import CHECKPOINT, TrainingError
from models.training.loop import Training, train
from models.training.recipe import Adversary, Optimiser, Recipe, find_recipe, without_noise


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", None, "train")


@pytest.fixture(scope="module")
def few(digits: DataSet) -> DataSet:
    """Pictures whose last batch is not full."""
    return DataSet(digits.images[:370], digits.labels[:370], digits.names)


def recipe(**changes: Any) -> Recipe:
    return find_recipe("digits").changed(**changes)


def test_a_bundle_comes_out_that_knows_its_recipe(tmp_path: Path, digits: DataSet) -> None:
    before = torch.get_rng_state(), torch.get_num_threads()
    chosen = recipe(epochs=8)
    train(chosen, digits, tmp_path / "digits")
    assert torch.equal(before[0], torch.get_rng_state()), "the caller's random numbers changed"
    assert before[1] == torch.get_num_threads()
    bundle = read_bundle(tmp_path / "digits")
    manifest = bundle.manifest
    assert (manifest.name, manifest.version) == ("digits", "1")
    assert manifest.labels == digits.names
    assert manifest.input.shape == (1, 8, 8)
    assert (manifest.noise.scale, manifest.sensitivity.value) == (0.25, 1.0)
    assert manifest.sensitivity.method == "identity"
    assert Recipe.model_validate(manifest.training["recipe"]) == chosen
    assert manifest.training["data"] == {"pictures": 1500, "sha256": digits.digest()}
    assert manifest.training["noisy_accuracy"] > 0.6
    assert sorted(file.name for file in (tmp_path / "digits").iterdir()) == ["model.json", WEIGHTS]
    network = load_network(bundle)
    test = load("digits", None, "test")
    with torch.inference_mode():
        pictures = torch.from_numpy(test.images).permute(0, 3, 1, 2).float() / 255
        right = network.score(network.encode(pictures)).argmax(1) == torch.from_numpy(test.labels)
    assert float(right.float().mean()) > 0.75


def interrupted_after(epochs: int) -> Callable[..., None]:
    """Return a function that writes checkpoints and interrupts the training after ``epochs``."""

    def write(*arguments: Any) -> None:
        checkpoint.write_checkpoint(*arguments)
        if arguments[-1].epochs == epochs:
            raise KeyboardInterrupt

    return write


@pytest.mark.parametrize(
    "changes",
    [
        {"draws": 2, "consistency": {"weight": 2.0}, "noise_warm_up": 2},
        {"precision": "bfloat16", "channels_last": True, "augmentation": {"rotation": 5}},
        {"placement": "layer1", "mechanism": "laplace", "norm": "l1"},
        {"placement": "layer1", "learned_noise": True},
    ],
    ids=["float32", "bfloat16", "layer1", "learned"],
)
def test_a_resumed_training_ends_with_the_same_weights(
    tmp_path: Path, few: DataSet, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    chosen = recipe(epochs=4, **changes)
    train(chosen, few, tmp_path / "whole")
    parts = tmp_path / "parts"
    for epochs in (1, 3, 4):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "write_checkpoint", interrupted_after(epochs))
            with pytest.raises(KeyboardInterrupt):
                train(chosen, few, parts, resume=True)
        names = sorted(file.name for file in parts.iterdir())
        assert names == [f"checkpoint-000{epochs}.safetensors", CHECKPOINT]
    train(chosen, few, parts, resume=True)
    assert (parts / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    other = chosen.changed(seed=1)
    train(other, few, tmp_path / "other")
    assert (tmp_path / "other" / WEIGHTS).read_bytes() != (parts / WEIGHTS).read_bytes()


def test_a_training_begins_with_another_bundle_s_weights(
    tmp_path: Path, few: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(epochs=2), few, tmp_path / "first")
    first = read_bundle(tmp_path / "first")
    begin = partial(Training, start=first)
    chosen = recipe(epochs=2, scale=0.5, optimiser=Optimiser(learning_rate=1e-5, weight_decay=0))
    manifest = train(chosen, few, tmp_path / "second", begin=begin)
    assert isinstance(manifest, Manifest)
    assert manifest.training["recipe"]["start"] == first.manifest.weights.sha256
    before, after = load_file(first.weights), load_file(tmp_path / "second" / WEIGHTS)
    moved = max(float((after[name] - value).abs().max()) for name, value in before.items())
    assert 0 < moved < 1e-3
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", interrupted_after(1))
        with pytest.raises(KeyboardInterrupt):
            train(chosen, few, tmp_path / "parts", begin=begin)
    with pytest.raises(TrainingError, match="began with another start"):
        train(chosen, few, tmp_path / "parts", resume=True)
    train(chosen, few, tmp_path / "parts", begin=begin, resume=True)
    assert (tmp_path / "parts" / WEIGHTS).read_bytes() == (
        tmp_path / "second" / WEIGHTS
    ).read_bytes()
    for other in (recipe(placement="layer1"), find_recipe("mnist-cnn")):
        with pytest.raises(TrainingError, match="same architecture and placement"):
            train(other, few, tmp_path / "third", begin=begin)


def test_a_template_of_split_noise_stays_that_of_its_scale(tmp_path: Path, few: DataSet) -> None:
    split = {"mechanism": "split", "norm": "l1", "epochs": 1}
    train(recipe(scale=0.5, **split), few, tmp_path / "first")
    begin = partial(Training, start=read_bundle(tmp_path / "first"))
    train(recipe(scale=1.0, **split), few, tmp_path / "second", begin=begin)
    template = load_file(tmp_path / "second" / WEIGHTS)[TEMPLATE]
    assert 255 < template.max() < 510


class Slowed(loop.Training):
    """A training in which one number format is slow, as on machines that lack it."""

    slow = "float32"

    def _loss(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, float]:
        if self.recipe.precision == self.slow:
            time.sleep(0.3)
        return super()._loss(*arguments)


@pytest.mark.parametrize(("slow", "faster"), [PRECISIONS, PRECISIONS[::-1]])
def test_the_faster_number_format_is_used_and_recorded(
    tmp_path: Path,
    few: DataSet,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    slow: Precision,
    faster: Precision,
) -> None:
    monkeypatch.setattr(Slowed, "slow", slow)
    asked = recipe(epochs=1, precision=None)
    manifest = train(asked, few, tmp_path, begin=Slowed)
    assert manifest.training["recipe"] == asked.changed(precision=faster).model_dump(mode="json")
    said = capsys.readouterr().err
    assert f"training in {faster}: a step of 16 pictures takes" in said
    assert f" ms in {slow}" in said


def test_the_measurement_leaves_no_trace(tmp_path: Path, few: DataSet) -> None:
    """Neither weights, nor running statistics, nor random numbers change."""
    resnet = {"name": "fast-resnet", "arguments": {"channels": [2, 2, 2, 2]}}
    asked = recipe(epochs=1, precision=None, architecture=resnet, draws=2)
    manifest = train(asked, few, tmp_path / "measured")
    said = asked.changed(precision=manifest.training["recipe"]["precision"])
    train(said, few, tmp_path / "said")
    assert (tmp_path / "measured" / WEIGHTS).read_bytes() == (
        tmp_path / "said" / WEIGHTS
    ).read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_training_goes_on_in_the_format_that_it_began_in(
    tmp_path: Path, few: DataSet, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """Even if the other one is faster."""
    monkeypatch.setattr(Slowed, "slow", precision)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", interrupted_after(1))
        with pytest.raises(KeyboardInterrupt):
            train(recipe(epochs=2, precision=precision), few, tmp_path)
    (other,) = set(PRECISIONS) - {precision}
    with pytest.raises(TrainingError, match="began with another precision; resume with"):
        train(recipe(epochs=2, precision=other), few, tmp_path, resume=True)
    left_open = recipe(epochs=2, precision=None)
    manifest = train(left_open, few, tmp_path, begin=Slowed, resume=True)
    assert manifest.training["recipe"]["precision"] == precision


@pytest.fixture
def unfinished(tmp_path: Path, few: DataSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a training of three epochs that was interrupted after the first."""
    folder = tmp_path / "unfinished"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", interrupted_after(1))
        with pytest.raises(KeyboardInterrupt):
            train(recipe(epochs=3), few, folder)
    return folder


def test_two_trainings_do_not_write_into_one_folder(tmp_path: Path, few: DataSet) -> None:
    with (
        locked(tmp_path / CHECKPOINT),
        pytest.raises(TrainingError, match="another training writes into"),
    ):
        train(recipe(), few, tmp_path)


def test_a_partly_written_checkpoint_leaves_the_one_before(
    few: DataSet, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_whole

    def torn(file: Path, content: bytes) -> None:
        if file.name == CHECKPOINT:
            raise OSError(28, "No space left on device")
        whole(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", torn)
        with pytest.raises(OSError, match="No space"):
            train(recipe(epochs=3), few, unfinished, resume=True)
    assert (unfinished / "checkpoint-0002.safetensors").exists()
    assert json.loads((unfinished / CHECKPOINT).read_bytes())["progress"]["epochs"] == 1
    train(recipe(epochs=3), few, unfinished, resume=True)
    assert sorted(file.name for file in unfinished.iterdir()) == ["model.json", WEIGHTS]


def test_a_folder_in_use_is_left_alone(few: DataSet, unfinished: Path) -> None:
    with pytest.raises(
        TrainingError, match="unfinished training; --resume continues it, --force begins"
    ):
        train(recipe(epochs=3), few, unfinished)
    train(recipe(epochs=3), few, unfinished, resume=True)
    with pytest.raises(TrainingError, match="holds a finished bundle"):
        train(recipe(epochs=3), few, unfinished, resume=True)


def test_force_begins_again_and_resume_goes_on(few: DataSet, unfinished: Path) -> None:
    train(recipe(epochs=1, seed=5), few, unfinished, force=True)
    bundle = read_bundle(unfinished)
    assert bundle.manifest.training["recipe"]["seed"] == 5
    assert sorted(file.name for file in unfinished.iterdir()) == ["model.json", WEIGHTS]
    (unfinished / CARD).write_text("about the former network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_watch", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe(epochs=2, seed=6), few, unfinished, force=True)
    assert read_bundle(unfinished).digest == bundle.digest, "until there is a new one"

    train(recipe(epochs=2, seed=6), few, unfinished, force=True)
    alone = unfinished.parent / "alone"
    train(recipe(epochs=2, seed=6), few, alone)
    assert (unfinished / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
    assert sorted(file.name for file in unfinished.iterdir()) == ["model.json", WEIGHTS]


def test_a_recipe_that_does_not_match_leaves_the_checkpoint(few: DataSet, unfinished: Path) -> None:
    before = {file.name: file.read_bytes() for file in unfinished.iterdir()}
    with pytest.raises(ValueError, match="placement"):
        train(recipe(epochs=1, placement="nowhere"), few, unfinished, force=True)
    assert {file.name: file.read_bytes() for file in unfinished.iterdir()} == before


def test_only_the_same_training_is_resumed(few: DataSet, digits: DataSet, unfinished: Path) -> None:
    with pytest.raises(TrainingError, match="began with another epochs, seed; resume with"):
        train(recipe(epochs=4, seed=3), few, unfinished, resume=True)
    with pytest.raises(TrainingError, match="began on other data"):
        train(recipe(epochs=3), digits, unfinished, resume=True)


def test_a_damaged_checkpoint_is_refused(few: DataSet, unfinished: Path) -> None:
    def resume(complaint: str) -> None:
        with pytest.raises(TrainingError, match=complaint):
            train(recipe(epochs=3), few, unfinished, resume=True)

    file, tensors = unfinished / CHECKPOINT, unfinished / "checkpoint-0001.safetensors"
    good = json.loads(file.read_bytes())
    file.write_text(json.dumps({**good, "format_version": 9}))
    resume("format version 9; this release reads 1")
    file.write_text(json.dumps({name: good[name] for name in good if name != "optimiser"}))
    resume("cannot be resumed from .*optimiser.*empty folder")
    file.write_text("{")
    resume("cannot be resumed from")
    file.write_text(json.dumps(good))
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    resume("is not what checkpoint.json was written for")
    tensors.unlink()
    resume("cannot be resumed from")


@pytest.mark.parametrize(
    ("mechanism", "norm", "noise_norm"),
    [
        ("gaussian", "l2", "l2"),
        ("gaussian", "l1", "l2"),
        ("laplace", "l1", "l1"),
        ("gaussian", "linf", "l2"),
    ],
)
def test_noise_after_the_first_layer_keeps_the_sensitivity_of_noise_in_the_image(
    tmp_path: Path, few: DataSet, mechanism: str, norm: str, noise_norm: str
) -> None:
    chosen = recipe(epochs=2, placement="layer1", mechanism=mechanism, norm=norm)
    train(chosen, few, tmp_path)
    bundle = read_bundle(tmp_path)
    spec = bundle.manifest.sensitivity
    assert (spec.input_norm, spec.noise_norm) == (norm, noise_norm)
    image = encoder_sensitivity(torch.nn.Identity(), (1, 8, 8), norm, noise_norm).value  # type: ignore[arg-type]
    assert 0.5 * image < spec.value <= image
    assert spec.method != "identity"
    encoder = load_network(bundle).encoder
    assert encoder_sensitivity(encoder, (1, 8, 8), norm, noise_norm).value == spec.value  # type: ignore[arg-type]


def test_the_construction_bound_is_recorded_with_the_scale(tmp_path: Path, few: DataSet) -> None:
    bound = {"size": 0.1, "epsilon": 1.0, "delta": 0.05}
    chosen = recipe(epochs=1, scale=None, construction_bound=bound)
    train(chosen, few, tmp_path)
    noise = read_bundle(tmp_path).manifest.noise
    assert noise.scale == construction_scale("gaussian", 0.1, 1.0, 0.05, 1.0)
    assert noise.construction_bound is not None
    assert noise.construction_bound.model_dump() == bound


def test_a_loss_that_is_not_finite_ends_with_advice(tmp_path: Path, few: DataSet) -> None:
    chosen = recipe(epochs=3, optimiser={"learning_rate": 1e20})
    with pytest.raises(TrainingError, match=r"the loss became \w+ in epoch 1, step \d: lower"):
        train(chosen, few, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_built_is_refused_before_it_is_trained(tmp_path: Path, few: DataSet) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"placement": "layer9"}, "placement 'layer9': no module 'layer9'"),
        ({"architecture": {"name": "vgg"}}, "unknown network 'vgg'"),
        ({"architecture": {"name": "cnn", "arguments": {"width": 3}}}, "arguments of cnn"),
    ]
    for change, complaint in wrong:
        with pytest.raises(ValueError, match=complaint):
            train(recipe(**change), few, tmp_path)
    assert not list(tmp_path.iterdir())


def test_noise_grows_over_the_warm_up(few: DataSet) -> None:
    training = loop.Training(recipe(noise_warm_up=2), few)
    scales = [training._scale(step) for step in range(10)]
    assert scales[:4] == pytest.approx([0.25 * (step + 1) / 8 for step in range(4)])
    assert scales[7:] == [0.25] * 3


def test_attacks_grow_over_the_warm_up(few: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = without_noise(recipe()).changed(adversary=Adversary(size=0.2), noise_warm_up=2)
    training = loop.Training(plain, few)
    tried = []

    def attack(_: Any, pictures: torch.Tensor, *others: Any) -> torch.Tensor:
        tried.append(others[1].unique().tolist())
        return pictures

    monkeypatch.setattr(loop, "pgd", attack)
    for step in (0, 3, 7, 9):
        training._gradients(torch.arange(4), step)
    assert tried == [[pytest.approx(0.2 * share)] for share in (1 / 8, 4 / 8, 1, 1)]


def test_progress_reports_each_epoch(
    tmp_path: Path, few: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe(epochs=2), few, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "accuracy under noise" in lines[1]


def test_weights_are_stored_plainly(tmp_path: Path, few: DataSet) -> None:
    train(recipe(epochs=1, channels_last=True), few, tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    assert weights["classifier.0.weight"].shape == (16, 1, 5, 5)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())


@pytest.mark.slow
def test_training_on_attacked_pictures_makes_a_network_that_attacks_move_less(
    tmp_path: Path, digits: DataSet
) -> None:
    """Madry et al. (2018): the same network, with and without attacks while it is trained."""
    test = load("digits", None, "test")
    pictures = torch.from_numpy(test.images).permute(0, 3, 1, 2).float() / 255
    labels, sizes = torch.from_numpy(test.labels), torch.full((len(test),), 0.1)
    kept = []
    for adversary in (None, Adversary(size=0.1, steps=5)):
        chosen = without_noise(recipe()).changed(epochs=6, adversary=adversary)
        out = tmp_path / str(len(kept))
        train(chosen, digits, out)
        assert Recipe.model_validate(read_bundle(out).manifest.training["recipe"]) == chosen
        scores = plain_scores(load_network(read_bundle(out)))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            altered = pgd(scores, pictures, labels, sizes, "linf", 20)
        kept.append((scores(altered).argmax(1) == labels).float().mean().item())
    assert kept[1] > kept[0] + 0.1
