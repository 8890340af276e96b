"""A model with intervals: trained, loaded, asked, and attacked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.answering import answer_all
from models.asking import ask
from models.bundle import BundleError, Manifest
from models.calibration import calibrate
from models.certification.answer import conclude
from models.certification.interval import IntervalInquiry
from models.certification.kinds import SizeInquiry
from models.data.datasets import load
from models.data.labelled import DataSet
from models.device import DeviceError
from models.evaluation.attacks import noisy_scores, pgd
from models.execution import ProviderError
from models.loaded import LoadedModel, load_model
from models.network import build_network, load_network, save_network
from models.networks.interval import IntervalNetwork
from models.predictor import Predictor
from models.preprocessing import CannotCertify
from models.training.loop import train
from models.training.recipe import find_recipe

CHANGES = {
    "mechanism": "interval",
    "norm": "linf",
    "scale": 0.06,
    "name": "digits-linf",
    "epochs": 20,
    "batch_size": 50,
    "noise_warm_up": 10,
    "optimiser": {"learning_rate": 5e-3, "weight_decay": 0.0},
    "augmentation": {},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("intervals") / "digits-linf"
    train(find_recipe("digits").changed(**CHANGES), load("digits", None, "train"), folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def pictures() -> DataSet:
    return load("digits", None, "test").every(9)


def answers(
    model: LoadedModel, images: Any, pass_size: int = 64, **options: Any
) -> dict[int, SizeInquiry]:
    question = ask(model.manifest, None, 64, usual=0.9, **options)
    return dict(answer_all(Predictor(model, pass_size), images, question))


def test_most_pictures_are_certified_and_no_attack_within_the_size_changes_the_label(
    model: LoadedModel, pictures: DataSet
) -> None:
    found = answers(model, pictures.images)
    assert all(isinstance(one, IntervalInquiry) and one.draws <= 64 for one in found.values())
    label = [found[number].total.leader for number in range(len(pictures))]
    size = np.array([found[number].size for number in range(len(pictures))])
    right = (np.array(label) == pictures.labels) & (size >= 0.03)
    assert right.mean() > 0.5
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = load_network(model.bundle)
    values = torch.from_numpy(pictures.images).permute(0, 3, 1, 2).float() / 255
    sizes = torch.from_numpy(size).float()
    attacked = pgd(noisy_scores(network, 1), values, torch.tensor(label), sizes, "linf", 20)
    corner = values + sizes[:, None, None, None] * torch.from_numpy(
        rng.choice([-1.0, 1.0], values.shape)
    )
    for moved in (attacked, corner):
        # To bytes, towards the picture, so that none is further away than its size.
        steps = ((moved - values) * 255).trunc()
        bytes_ = ((values * 255).round() + steps).clamp(0, 255).to(torch.uint8)
        assert (steps.abs().amax(dim=(1, 2, 3)) <= sizes * 255 + 1e-3).all()
        assert (steps != 0).any()
        again = answers(model, bytes_.permute(0, 2, 3, 1).numpy())
        assert [again[number].total.leader for number in range(len(pictures))] == label


def test_answers_are_the_same_in_passes_of_any_size_and_in_any_company(
    model: LoadedModel, pictures: DataSet
) -> None:
    many = answers(model, pictures.images[:12])
    alone = answers(model, pictures.images[:2], pass_size=8)
    for number in (0, 1):
        assert many[number].size == alone[number].size
        assert conclude(many[number], 3) == conclude(alone[number], 3)


def test_a_target_takes_one_round(model: LoadedModel, pictures: DataSet) -> None:
    found = answers(model, pictures.images[:20], target=0.05, norm="l2")
    assert {one.draws for one in found.values()} == {4}
    stopped = {one.stopped for one in found.values()}
    assert stopped <= {"target_certified", "target_out_of_reach"}


def test_only_float32_of_pytorch_runs_it(model: LoadedModel) -> None:
    predictor, calibration = calibrate(model, "cpu", None, 16)
    assert (calibration.provider, calibration.precision) == ("pytorch", "float32")
    predictor.prove()
    with pytest.raises(ProviderError, match="float32 only"):
        predictor.compile()
    for way in ({"precision": "bfloat16"}, {"provider": "openvino"}):
        with pytest.raises(ProviderError, match="float32 only"):
            Predictor(model, 16, "cpu", **way)  # type: ignore[arg-type]
    with pytest.raises(ProviderError, match="float32 only"):
        calibrate(model, "cpu", "bfloat16", 16)


def test_a_device_without_true_products_must_not_serve(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(model, 16)
    monkeypatch.setattr(IntervalNetwork, "try_products", lambda network, rows: False)
    with pytest.raises(DeviceError, match="products of float32 matrices"):
        predictor.try_rows()


@pytest.mark.parametrize("shape", [(16, 16, 1), (8, 8, 3)])
def test_only_pixels_as_they_are_have_intervals(
    model: LoadedModel, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(CannotCertify, match="certifies by intervals"):
        Predictor(model, 16).encode(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(CannotCertify, match="send 8 bits"):
        Predictor(model, 16).encode(np.zeros((8, 8, 1), dtype=np.uint16))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sensitivity": {"input_norm": "l2", "value": 1.0}}, "sensitivity 1 from linf"),
        ({"sensitivity": {"value": 2.0}}, "sensitivity 1 from linf"),
        ({"scoring": "softmax"}, "intervals need votes"),
        ({"noise": {"scale": 1.5}}, "boxes of radius"),
        ({"noise": {"placement": "layer1"}}, "intervals are of the image"),
        ({"int8": {"ranges": {"a": (0.0, 1.0)}}}, "float32 only"),
    ],
)
def test_descriptions_that_cannot_be_are_refused(
    model: LoadedModel, changes: dict[str, Any], said: str
) -> None:
    document = model.manifest.model_dump(mode="json")
    for name, change in changes.items():
        document[name] = document[name] | change if isinstance(document[name], dict) else change
    with pytest.raises(ValueError, match=said):
        Manifest.model_validate(document)


def test_a_network_without_bounds_is_not_loaded(model: LoadedModel, tmp_path: Path) -> None:
    architecture = {"name": "strided-cnn", "arguments": {"depth": 1, "hidden": 8}}
    document = model.manifest.model_dump(mode="json") | {"architecture": architecture}
    manifest = Manifest.model_validate(document)
    network = build_network(manifest)
    assert isinstance(network.classifier, nn.Sequential)
    save_network(tmp_path, manifest, network)
    with pytest.raises(BundleError, match="intervals do not pass it"):
        load_model(tmp_path)
