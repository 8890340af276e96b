"""Predictions as they are served: each row of a pass depends on nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.bundle import MANIFEST, BundleError, Manifest
from models.execution import PRECISIONS, Execution, Precision
from models.loaded import MOST_REACH, STEPS, grid_noise, load_model
from models.network import build_network, save_network
from models.noise import PIXEL_STEP, SUBSTEPS, Features
from models.predictor import Predictor
from models.preprocessing import CannotCertify
from models.sensitivity.modules import encoder_sensitivity
from tests.conftest import HAS_COMPILER
from tests.models.sensitivity import exact
from tests.models.test_bundle import DESCRIPTION, RESIDUAL

SLOTS = 64


def fixed_key() -> bytes:
    return bytes(range(32))


def make(
    folder: Path, precision: Precision = "float32", slots: int = SLOTS, **noise: Any
) -> Predictor:
    torch.manual_seed(1)
    description = {**DESCRIPTION, "noise": {**DESCRIPTION["noise"], **noise}}
    if description["noise"]["mechanism"] in ("laplace", "discrete-laplace"):
        value = 30.0 if description["noise"]["mechanism"] == "laplace" else 1.0
        norms = {"input_norm": "l1", "noise_norm": "l1", "value": value}
        description["sensitivity"] = {**DESCRIPTION["sensitivity"], **norms}
    elif description["noise"]["placement"] == "layer1":
        description["sensitivity"] = {**DESCRIPTION["sensitivity"], "value": 10.0}
    manifest = Manifest.model_validate(description)
    save_network(folder, manifest, build_network(manifest))
    return Predictor(load_model(folder), slots, precision=precision, key=fixed_key)


def pixels(seed: int, bits: int = 8) -> Any:
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, (8, 8, 1)).astype(kind)


def logits(predictor: Predictor, pictures: list[Features], rows: list[int]) -> np.ndarray:
    """What h itself returned in a pass, before it is evaluated."""
    seen: list[torch.Tensor] = []
    hook = predictor.resident.network.register_forward_hook(lambda *all_: seen.append(all_[2]))
    predictor.run(pictures, np.array(rows))
    hook.remove()
    return seen[0].float().numpy()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_depends_on_nothing_but_itself(tmp_path: Path, precision: Precision) -> None:
    """Other rows, even extreme ones, change no bit of the network's output for a row.

    A row's noise depends on its place in the pass, so the rows keep their places here.
    """
    predictor = make(tmp_path, precision)
    mine = predictor.encode(pixels(1)).features
    black = predictor.encode(np.zeros((8, 8, 1), np.uint8)).features
    white = predictor.encode(np.full((8, 8, 1), 255, np.uint8)).features
    rng = np.random.default_rng(0)
    alone = logits(predictor, [mine], [0] * SLOTS)
    for _ in range(10):
        others = rng.random(SLOTS) < 0.5
        rows = np.where(others, rng.integers(1, 3, SLOTS), 0)
        mixed = logits(predictor, [mine, black, white], rows.tolist())
        assert np.array_equal(mixed[~others], alone[~others])
        assert not np.array_equal(mixed[others], alone[others])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_rows_place_does_not_matter_to_h(tmp_path: Path, precision: Precision) -> None:
    predictor = make(tmp_path, precision)
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    noisy = torch.randn(SLOTS, 1, 8, 8).to(kind)
    with torch.inference_mode():
        straight = predictor.resident.network(noisy)
        for seed in range(5):
            order = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(seed))
            assert torch.equal(predictor.resident.network(noisy[order]), straight[order])
            # Hostile companions do not matter, either.
            hostile = noisy.clone()
            hostile[order[:-1]] = 1e30
            assert torch.equal(predictor.resident.network(hostile)[order[-1]], straight[order[-1]])


def test_pixels_in_the_image_are_exact(tmp_path: Path) -> None:
    predictor = make(tmp_path)
    picture = pixels(3)
    encoded = predictor.encode(picture)
    assert encoded.features.on_grid
    assert (encoded.features.steps == picture.ravel()).all()
    assert encoded.terms.rho == 0
    wide = predictor.encode(pixels(3, 16))
    assert not wide.features.on_grid
    assert (wide.features.substeps * 257 == pixels(3, 16).ravel().astype(int) * SUBSTEPS).all()
    assert 0 < wide.terms.rho < 1e-4


def test_the_network_is_given_the_sum_on_the_grid(tmp_path: Path) -> None:
    """The service's votes are those of a plain evaluation of the same noisy pictures."""
    predictor = make(tmp_path)
    features = predictor.encode(pixels(4)).features
    rows = np.zeros(SLOTS, dtype=np.intp)
    votes = predictor.run([features], rows)
    steps = predictor.noise.draw([features], rows, fixed_key())
    noisy = torch.from_numpy(steps.astype(np.float64) * PIXEL_STEP).float().reshape(-1, 1, 8, 8)
    with torch.inference_mode():
        expected = predictor.resident.network(noisy)
    assert (votes == expected.argmax(1).numpy()).all()


def test_features_of_a_layer_are_snapped_within_the_stated_error(tmp_path: Path) -> None:
    predictor = make(tmp_path, placement="layer1")
    picture = pixels(5)
    encoded = predictor.encode(picture)
    weight, bias = predictor._encoder.weight, predictor._encoder.bias
    exact = F.conv2d(torch.from_numpy(picture[None, ..., 0] / 255.0)[None], weight, bias, 2, 2)
    fine = predictor.noise.step / SUBSTEPS
    error = np.abs(encoded.features.steps * fine - exact.numpy().ravel())
    assert error.max() <= fine / 2 * (1 + 1e-6)
    assert 2 * np.sqrt((error**2).sum()) <= encoded.terms.rho


def test_terms_hold_preprocessing_and_model(tmp_path: Path) -> None:
    predictor = make(tmp_path)
    large = np.zeros((16, 16, 3), np.uint8)
    terms = predictor.encode(large).terms
    assert terms.values == 16 * 16 * 3
    assert terms.sensitivity < 0.6686
    assert terms.rho > 0
    assert terms.tau > 0


def test_pictures_that_the_model_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(CannotCertify):
        make(tmp_path).encode(np.zeros((8, 1, 1), np.uint8)[:0])


def test_laplace_in_the_image(tmp_path: Path) -> None:
    predictor = make(tmp_path, mechanism="laplace")
    encoded = predictor.encode(pixels(6))
    assert encoded.terms.norm == "l1"
    votes = predictor.run([encoded.features], np.zeros(SLOTS, dtype=np.intp))
    assert (votes >= 0).all()


def test_discrete_noise_is_whole_steps_from_the_pixels(tmp_path: Path) -> None:
    """Nothing is rounded, cropped or not; whatever would leave the grid is refused."""
    predictor = make(tmp_path, mechanism="discrete-laplace")
    predictor.prove()
    tall = np.concatenate([pixels(6), pixels(7)[:4]])
    for picture, kept in ((pixels(6), pixels(6)), (tall, tall[2:10])):
        encoded = predictor.encode(picture)
        assert encoded.features.on_grid
        assert (encoded.features.steps == kept.ravel()).all()
        terms = encoded.terms
        assert (terms.sensitivity, terms.rho, terms.further) == (1, 0, ())
        assert terms.tau == predictor.noise.total_variation(64) > 0
    rows = np.zeros(SLOTS, dtype=np.intp)
    seen = predictor.noisy([encoded.features], rows).reshape(SLOTS, -1)
    steps = predictor.noise.draw([encoded.features], rows, fixed_key())
    assert torch.equal(seen, torch.from_numpy(steps).float() * PIXEL_STEP)
    assert len(np.unique(steps - encoded.features.steps)) > 200
    for wrong in (pixels(3, 16), np.zeros((16, 16, 1), np.uint8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(CannotCertify, match="takes pixels as they are"):
            predictor.encode(wrong)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("noise", {"placement": "layer1"}),
        ("noise", {"scale": 1e-3}),
        ("sensitivity", {"input_norm": "l2"}),
        ("sensitivity", {"value": 0.25}),
    ],
)
def test_forged_bundles_with_discrete_noise_are_refused(
    tmp_path: Path, part: str, change: dict[str, Any]
) -> None:
    make(tmp_path, mechanism="discrete-laplace")
    file = tmp_path / MANIFEST
    document = json.loads(file.read_text(encoding="utf-8"))
    document[part] |= change
    file.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match=r"discrete-laplace noise|does not suit noise of scale"):
        load_model(tmp_path)


def test_a_pass_has_one_size(tmp_path: Path) -> None:
    predictor = make(tmp_path)
    features = predictor.encode(pixels(7)).features
    with pytest.raises(ValueError, match="a pass has 64 rows"):
        predictor.run([features], np.zeros(63, dtype=np.intp))


def test_noise_is_fresh_for_every_pass(tmp_path: Path) -> None:
    make(tmp_path)
    predictor = Predictor(load_model(tmp_path), SLOTS)
    features = predictor.encode(np.full((8, 8, 1), 128, np.uint8)).features
    first, second = (logits(predictor, [features], [0] * SLOTS) for _ in range(2))
    assert not np.array_equal(first, second)


def test_measuring_says_draws_per_second(tmp_path: Path) -> None:
    assert make(tmp_path).measure(0.01) > 0


@pytest.mark.slow
def test_a_compiled_network_keeps_rows_apart_and_agrees(tmp_path: Path) -> None:
    predictor = make(tmp_path)
    if not HAS_COMPILER:
        with pytest.raises(RuntimeError):
            predictor.compile()
        return
    compiled = predictor.compile()
    features = predictor.encode(pixels(8)).features
    drawn = predictor.noisy([features], np.zeros(SLOTS, dtype=np.intp))
    torch.testing.assert_close(compiled.logits(drawn), predictor.logits(drawn))
    converted = Predictor(load_model(tmp_path), SLOTS, precision="bfloat16", provider="openvino")
    halved = converted.compile()
    assert halved.execution == Execution("pytorch", "bfloat16", SLOTS, True)
    assert {one.dtype for one in halved.resident.network.parameters()} == {torch.bfloat16}
    noisy = torch.randn(SLOTS, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        straight = compiled.resident.network(noisy).clone()
        order = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(3))
        permuted = noisy[order].contiguous(memory_format=torch.channels_last)
        assert torch.equal(compiled.resident.network(permuted), straight[order])
        hostile = noisy.clone(memory_format=torch.channels_last)
        hostile[order[:-1]] = 1e30
        assert torch.equal(compiled.resident.network(hostile)[order[-1]], straight[order[-1]])


def deep(folder: Path, description: dict[str, Any], **noise: Any) -> Predictor:
    """A model with several layers before the noise; its Δ is stated as proven."""
    torch.manual_seed(2)
    described = {**description, "noise": {**description["noise"], **noise}}
    manifest = Manifest.model_validate(described)
    network = build_network(manifest)
    spec = manifest.sensitivity
    proven = encoder_sensitivity(
        network.encoder, manifest.input.shape, spec.input_norm, spec.noise_norm
    )
    stated = spec.model_copy(update={"value": proven.value})
    save_network(folder, manifest.model_copy(update={"sensitivity": stated}), network)
    return Predictor(load_model(folder), SLOTS, key=fixed_key)


DEEP = {
    "convolutions": {**DESCRIPTION, "noise": {**DESCRIPTION["noise"], "placement": "2"}},
    "residual": RESIDUAL,
    "all but the last layer": {
        **DESCRIPTION,
        "noise": {"mechanism": "laplace", "scale": 3.0, "placement": "6"},
        "sensitivity": {**DESCRIPTION["sensitivity"], "input_norm": "linf", "noise_norm": "l1"},
    },
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_features_are_exact_within_the_stated_error(tmp_path: Path, name: str) -> None:
    predictor = deep(tmp_path, DEEP[name])
    for picture in (pixels(9), pixels(9, 16)):
        encoded = predictor.encode(picture)
        largest = 255 if picture.itemsize == 1 else 65535
        start = np.vectorize(lambda k, n=largest: exact.MP.mpf(int(k)) / n, otypes=[object])
        wanted = exact.evaluate(predictor._encoder, start(picture.transpose(2, 0, 1))).ravel()
        fine = exact.MP.mpf(predictor.noise.step) / SUBSTEPS
        off = [abs(int(k) * fine - g) for k, g in zip(encoded.features.steps, wanted, strict=True)]
        total = sum(off) if predictor.noise.mechanism == "laplace" else sum(x * x for x in off)
        if predictor.noise.mechanism == "gaussian":
            total = exact.MP.sqrt(total)
        assert 0 < 2 * total <= encoded.terms.rho
        assert encoded.terms.rho < 1e-2 * encoded.terms.scale
        votes = predictor.run([encoded.features], np.zeros(SLOTS, dtype=np.intp))
        assert (votes >= 0).all()


@pytest.mark.parametrize("name", DEEP)
def test_no_two_pictures_have_features_further_apart_than_stated(tmp_path: Path, name: str) -> None:
    """‖features − features'‖ ≤ Δ·‖x − x'‖ + ρ, also for pictures that are preprocessed."""
    predictor = deep(tmp_path, DEEP[name])
    rng = np.random.default_rng(3)
    order = {"l1": 1, "l2": 2, "linf": np.inf}
    spec = predictor.manifest.sensitivity
    closest = 0.0
    for shape in ((8, 8, 1), (11, 9, 3)):
        for step in range(40):
            one = rng.integers(0, 256, shape).astype(np.uint8)
            other = one.copy()
            if step % 2:  # one pixel more or less, everywhere
                other = np.where(one < 255, one + 1, one - 1).astype(np.uint8)
            else:
                other[tuple(rng.integers(0, side) for side in shape)] ^= 255
            near, far = predictor.encode(one), predictor.encode(other)
            fine = predictor.noise.step / SUBSTEPS
            apart = (near.features.steps.astype(float) - far.features.steps) * fine
            change = (one.astype(float) - other).ravel() / 255
            allowed = near.terms.sensitivity * np.linalg.norm(change, order[spec.input_norm])
            found = np.linalg.norm(apart, order[spec.noise_norm])
            assert found <= allowed + near.terms.rho
            closest = max(closest, found / allowed)
    assert closest > 1e-3


def manifest_with(scale: float, mechanism: str = "gaussian", placement: str = "layer1") -> Manifest:
    noise = {"mechanism": mechanism, "scale": scale, "placement": placement}
    norm = {"gaussian": "l2", "laplace": "l1"}[mechanism]
    sensitivity = {**DESCRIPTION["sensitivity"], "noise_norm": norm}
    return Manifest.model_validate({**DESCRIPTION, "noise": noise, "sensitivity": sensitivity})


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("scale", [1e-4, 0.25, 70.0])
def test_the_grid_reaches_as_far_as_features_can(mechanism: str, scale: float) -> None:
    for scales in (0.0, 10.0, 511.9, 700.3, 4095.0):
        noise = grid_noise(manifest_with(scale, mechanism), scales * scale)
        assert noise.step <= scale / 8 * (1 + 1e-12)
        outermost = np.array([-scales * scale, scales * scale])
        steps = noise.snap(outermost).steps * (noise.step / SUBSTEPS)
        assert steps == pytest.approx(outermost, abs=noise.step / SUBSTEPS)
    assert grid_noise(manifest_with(scale, mechanism), 1.0 * scale).step == scale / 64


def test_clipping_features_beyond_every_grid_moves_no_two_apart(tmp_path: Path) -> None:
    predictor = deep(tmp_path, DEEP["convolutions"], scale=1e-7)
    largest = STEPS * SUBSTEPS
    one, other = (predictor.encode(pixels(seed)).features.steps for seed in (1, 2))
    assert np.abs(one).max() == np.abs(other).max() == largest
    assert predictor.noise.step * STEPS == pytest.approx(MOST_REACH * 1e-7)
    free = [
        predictor._run_encoder(pixels(seed).transpose(2, 0, 1) / 255.0).ravel() for seed in (1, 2)
    ]
    fine = predictor.noise.step / SUBSTEPS
    clipped_apart = np.abs(one.astype(float) - other) * fine
    assert (clipped_apart <= np.abs(free[0] - free[1]) + fine).all()
    assert (clipped_apart < np.abs(free[0] - free[1]) / 2).any()


def test_terms_hold_every_bound_that_helps(tmp_path: Path) -> None:
    """Laplace noise also in L2, and the resize from L∞, in which no value moves further."""
    predictor = make(tmp_path, mechanism="laplace")
    terms = predictor.encode(pixels(6)).terms
    # The bundle's own statement comes first; the proven bound is smaller.
    assert terms.deltas[0].value == predictor.manifest.sensitivity.value > 1
    assert [(delta.source, delta.target, delta.value) for delta in terms.further] == [
        ("l1", "l1", 1.0),
        ("l2", "l2", 1.0),
    ]
    large = predictor.encode(np.zeros((16, 16, 3), np.uint8)).terms
    found = {(delta.source, delta.target): delta for delta in large.deltas}
    assert found["linf", "l2"].value == pytest.approx(8, rel=1e-9)  # √64 values, each by at most 1
    assert found["linf", "l1"].value == pytest.approx(64, rel=1e-9)
    assert 0 < found["linf", "l2"].rho < found["linf", "l1"].rho
