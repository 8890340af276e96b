"""Bundles: what is refused, with where and why."""

import copy
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.bundle import (
    CARD,
    LARGEST,
    LARGEST_SAMPLE,
    MANIFEST,
    MOST_SAMPLES,
    SAMPLES,
    WEIGHTS,
    BundleError,
    Manifest,
    read_bundle,
    remove_bundle,
    write_manifest,
)
from models.loaded import load_model
from models.network import build_network, load_network, save_network
from models.predictor import Predictor

DESCRIPTION: dict[str, Any] = {
    "name": "tiny",
    "architecture": {"name": "cnn", "arguments": {"channels": [2, 3], "hidden": 4}},
    "input": {"channels": 1, "height": 8, "width": 8},
    "labels": ["a", "b", "c"],
    "noise": {"mechanism": "gaussian", "scale": 0.5, "placement": "image"},
    "sensitivity": {"value": 1.0, "input_norm": "l2", "noise_norm": "l2", "method": "identity"},
    "weights": {"sha256": "0" * 64},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))
    return tmp_path


def change(folder: Path, **members: Any) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    for path, value in members.items():
        part = document
        *parents, last = path.split("__")
        for name in parents:
            part = part[name]
        part[last] = value
    (folder / MANIFEST).write_text(json.dumps(document))


def test_what_is_saved_is_loaded(folder: Path) -> None:
    torch.manual_seed(0)
    manifest = Manifest.model_validate(DESCRIPTION)
    original = build_network(manifest)
    bundle = read_bundle(folder)
    loaded = load_network(bundle)
    assert not loaded.training
    for (name, one), (other_name, other) in zip(
        original.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
    assert bundle.manifest.labels == ("a", "b", "c")
    assert bundle.card == ""


def test_the_digest_names_description_and_weights(folder: Path) -> None:
    before = read_bundle(folder).digest
    change(folder, labels=["a", "b", "d"])
    assert read_bundle(folder).digest != before


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"format_version": 2}, "format_version"),
        ({"format_version": "1"}, "format_version"),
        ({"noise__scale": 0}, "noise.scale"),
        ({"noise__scale": -1}, "noise.scale"),
        ({"noise__scale": 1e60}, "noise.scale"),
        ({"sensitivity__value": 1e-320}, "sensitivity.value"),
        ({"noise__mechanism": "cauchy"}, "noise.mechanism"),
        ({"sensitivity__value": 0}, "sensitivity.value"),
        ({"sensitivity__noise_norm": "l1"}, "document"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": ["a", "a"]}, "document"),
        ({"name": "../tiny"}, "name"),
        ({"version": "new"}, "version"),
        ({"surprise": 1}, "surprise"),
        ({"weights__file": "../weights.safetensors"}, "weights.file"),
        ({"weights__sha256": "1" * 64}, "sha256"),
    ],
)
def test_descriptions_that_are_refused(folder: Path, members: dict[str, Any], field: str) -> None:
    change(folder, **members)
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert caught.value.field == field
    assert str(folder) in str(caught.value)


def test_files_that_are_missing_or_broken(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"expected a folder with model\.json"):
        read_bundle(tmp_path / "nowhere")
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-1])
    with pytest.raises(BundleError, match=r"weights.safetensors: sha256"):
        read_bundle(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        read_bundle(folder)
    for content in ("", "{", "[]", "\xff"):
        (folder / MANIFEST).write_text(content, encoding="latin-1")
        with pytest.raises(BundleError, match=r"model.json"):
            read_bundle(folder)


def resign(folder: Path, tensors: dict[str, torch.Tensor] | bytes) -> None:
    """Replace the weights, and state their digest."""
    import hashlib

    if isinstance(tensors, bytes):
        (folder / WEIGHTS).write_bytes(tensors)
    else:
        save_file(tensors, folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    change(folder, weights__sha256=digest)


def test_weights_that_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    bad = {key: value.clone() for key, value in tensors.items()}
    bad[name].view(-1)[0] = float("nan")
    resign(folder, bad)
    with pytest.raises(BundleError, match=f"{name}: holds NaN or infinity"):
        load_network(read_bundle(folder))
    resign(folder, {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(BundleError, match="do not fit the architecture"):
        load_network(read_bundle(folder))
    resign(folder, b"not safetensors")
    with pytest.raises(BundleError, match="is not a safetensors file"):
        load_network(read_bundle(folder))


def test_architectures_that_are_refused(folder: Path) -> None:
    for members in (
        {"architecture__name": "transformer"},
        {"architecture__arguments": {"depth": 3}},
        {"noise__placement": "nowhere"},
    ):
        before = (folder / MANIFEST).read_text()
        change(folder, **members)
        with pytest.raises(BundleError, match="architecture"):
            load_network(read_bundle(folder))
        (folder / MANIFEST).write_text(before)


def test_a_sensitivity_below_what_the_weights_allow_is_refused(tmp_path: Path) -> None:
    """The stated Δ is not trusted: it is bounded again from the weights."""
    torch.manual_seed(0)
    description = {**DESCRIPTION, "noise": {**DESCRIPTION["noise"], "placement": "layer1"}}
    description["sensitivity"] = {**DESCRIPTION["sensitivity"], "value": 1e-3}
    manifest = Manifest.model_validate(description)
    save_network(tmp_path, manifest, build_network(manifest))
    with pytest.raises(BundleError, match="proven bound is") as caught:
        load_network(read_bundle(tmp_path))
    assert caught.value.field == "sensitivity.value"


def test_a_manifest_survives_writing(tmp_path: Path) -> None:
    manifest = Manifest.model_validate(DESCRIPTION)
    write_manifest(tmp_path, manifest)
    assert Manifest.model_validate_json((tmp_path / MANIFEST).read_text()) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def test_weights_that_change_after_reading_are_refused(folder: Path) -> None:
    bundle = read_bundle(folder)
    other = {name: tensor + 1 for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(other, folder / WEIGHTS)
    with pytest.raises(BundleError, match=r"but model\.json states"):
        load_network(bundle)


def test_a_description_cut_off_anywhere_is_refused(folder: Path) -> None:
    whole = (folder / MANIFEST).read_bytes().rstrip()
    for end in range(0, len(whole), 7):
        (folder / MANIFEST).write_bytes(whole[:end])
        with pytest.raises(BundleError, match=r"model\.json: file: is not JSON"):
            read_bundle(folder)


def test_weights_altered_or_cut_off_anywhere_are_refused(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    for place in range(0, len(whole), 97):
        altered = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for content in (altered, whole[:place]):
            (folder / WEIGHTS).write_bytes(content)
            with pytest.raises(BundleError, match=r"weights\.safetensors: sha256: is"):
                read_bundle(folder)
    for end in range(0, len(whole), 97):  # even if the digest was made to match
        resign(folder, whole[:end])
        with pytest.raises(BundleError, match=r"weights\.safetensors: file: is not a safetensors"):
            load_network(read_bundle(folder))


def test_a_description_nested_without_end_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"name": ' + "[" * 10**6)
    with pytest.raises(BundleError, match="file: is not JSON"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("architecture", "complaint"),
    [
        (
            {"name": "cnn", "arguments": {"hidden": 2 * 10**6}},
            "far more weights than the 8 tensors",
        ),
        ({"name": "cnn", "arguments": {"hidden": 10**15}}, "cannot be built"),
        ({"name": "cnn", "arguments": {"hidden": -1}}, "cannot be built"),
        ({"name": "cnn", "arguments": {"hidden": "4"}}, "arguments of cnn"),
        ({"name": "cnn", "arguments": {"channels": [1]}}, "not enough values"),
        ({"name": "resnet", "arguments": {"depth": 6 * 10**8 + 2}}, "far more weights"),
        ({"name": "resnet", "arguments": {"depth": 1e400}}, "architecture: depth inf: expected"),
        ({"name": "wide-resnet", "arguments": {"width": 0}}, "cannot be built|do not fit"),
    ],
)
def test_networks_that_do_not_match_the_weights_are_refused(
    folder: Path, architecture: dict[str, Any], complaint: str
) -> None:
    """They are refused before they take memory or time."""
    change(folder, architecture=architecture)
    with pytest.raises(BundleError, match=complaint):
        load_network(read_bundle(folder))


def test_numbers_out_of_range_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name, weight = next(iter(tensors.items()))
    for other in (
        weight.double().fill_(1e300),  # finite in the file, infinite in float32
        weight.fill_(float("-inf")),
    ):
        resign(folder, {**tensors, name: other})
        with pytest.raises(BundleError, match=f"{name}: holds NaN or infinity"):
            load_network(read_bundle(folder))
    resign(folder, {**tensors, name: torch.zeros(weight.shape, dtype=torch.complex64)})
    with pytest.raises(BundleError, match=f"{name}: holds complex numbers"):
        load_network(read_bundle(folder))
    header = json.dumps({name: {"dtype": "F1", "shape": [1], "data_offsets": [0, 1]}}).encode()
    resign(folder, struct.pack("<Q", len(header)) + header + b"0")
    with pytest.raises(BundleError, match="is not a safetensors file"):
        load_network(read_bundle(folder))


RESIDUAL: dict[str, Any] = {
    **DESCRIPTION,
    "architecture": {"name": "resnet", "arguments": {"depth": 8, "channels": 2}},
    "noise": {**DESCRIPTION["noise"], "placement": "stage1"},
    "sensitivity": {**DESCRIPTION["sensitivity"], "value": 1e4},
}


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    manifest = Manifest.model_validate(RESIDUAL)
    save_network(tmp_path / "residual", manifest, build_network(manifest))
    return tmp_path / "residual"


def test_a_deep_sensitivity_is_bounded_again(residual: Path) -> None:
    load_network(read_bundle(residual))
    tensors = load_file(residual / WEIGHTS)
    name = "encoder.stage1.0.branch.1.running_var"
    resign(residual, {**tensors, name: torch.full_like(tensors[name], 1e-12)})
    change(residual, sensitivity__value=5.0)
    with pytest.raises(BundleError, match=r"states 5\.0, but .* proven bound is") as caught:
        load_network(read_bundle(residual))
    assert caught.value.field == "sensitivity.value"
    resign(residual, {**tensors, name: torch.full_like(tensors[name], -1.0)})
    with pytest.raises(BundleError, match=r"sensitivity: .*variance . eps is not positive"):
        load_network(read_bundle(residual))
    change(residual, noise__placement="stage1.0.branch")
    with pytest.raises(BundleError, match=r"architecture: placement .* lies inside a Residual"):
        load_network(read_bundle(residual))


def test_a_scale_too_small_for_the_grid_of_pixels_is_refused(folder: Path) -> None:
    change(folder, noise__scale=1e-4)
    with pytest.raises(BundleError, match=r"noise\.scale: a grid of step") as caught:
        Predictor(load_model(folder), 8)
    assert caught.value.field == "noise.scale"


STRANGE: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 7, 10**6, 10**30, 10**400, 0.5, -0.0, 1e-300, 1e308),
    *(float("nan"), float("inf"), "", "1", "0.5", "é" * 50, "\ud800", "../..", "image", "layer1"),
    *("cnn", "resnet", "wide-resnet", "exported", "python", "denoised", "laplace", "l1", "linf"),
    *([], {}, [[]], [0], [1, 2], [-1, 4], ["a", "b"], {"a": 1}),
]


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON document."""
    if path:
        yield path
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in items:
            yield from places(value, (*path, key))


def mutated(document: dict[str, Any], rng: random.Random) -> bytes:
    """The document with something replaced, removed or added, and its text sometimes cut."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2))):
        *parents, last = rng.choice(list(places(document)))
        part: Any = document
        for key in parents:
            part = part[key]
        what = rng.random()
        if what < 0.1:
            del part[last]
        elif what < 0.2 and isinstance(part, dict):
            part[rng.choice(("depth", "hidden", "channels", "width"))] = rng.choice(STRANGE)
        else:
            part[last] = rng.choice(STRANGE)
    text = json.dumps(document)
    if rng.random() < 0.1:
        place = rng.randrange(len(text))
        text = text[:place] + chr(rng.randrange(256)) + text[place + rng.randrange(3) :]
    return text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("seed", range(4))
def test_a_description_mutated_at_random_is_read_or_refused_and_nothing_else(
    folder: Path, residual: Path, seed: int
) -> None:
    rng = random.Random(seed)
    for path in (folder, residual):
        outcomes: set[Any] = set()
        document = json.loads((path / MANIFEST).read_text())
        for _ in range(60):
            (path / MANIFEST).write_bytes(mutated(document, rng))
            try:
                load_network(read_bundle(path))
                outcomes.add(None)
            except BundleError as error:
                outcomes.add(error)
        refused = outcomes - {None}
        assert all(error.file.parent == path for error in refused)
        assert all(error.field and error.reason for error in refused)
        assert len({error.field for error in refused}) > 10
        assert None in outcomes


def elsewhere(folder: Path, name: str) -> Path:
    """Move a file out of a bundle; return its new path."""
    moved = folder.parent / f"{folder.name}-{name}"
    (folder / name).rename(moved)
    return moved


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_links_are_followed_only_within_the_bundle(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "data")
    (folder / name).symlink_to("data")
    assert read_bundle(folder).manifest.name == "tiny"
    (folder / name).unlink()
    (folder / "data").rename(folder / name)
    outside = elsewhere(folder, name)
    (folder / name).symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of the folder"):
        read_bundle(folder)


def test_a_card_that_is_a_link_shows_nothing(folder: Path) -> None:
    bundle = read_bundle(folder)
    (folder / CARD).write_text("a card")
    assert bundle.card == "a card"
    outside = elsewhere(folder, CARD)
    (folder / CARD).symlink_to(outside)
    assert bundle.card == ""


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_files_that_would_block_their_reader_are_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match="not a regular file"):
        read_bundle(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(BundleError):
        read_bundle(folder)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_files_are_bounded_before_they_are_read(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(LARGEST[name] + 1)  # a sparse file, which takes almost no space on the disk
    with pytest.raises(BundleError, match=f"more than {LARGEST[name]:,} bytes"):
        read_bundle(folder)


def test_a_card_that_is_too_large_is_not_shown(folder: Path) -> None:
    (folder / CARD).write_bytes(b"x" * (LARGEST[CARD] + 1))
    assert read_bundle(folder).card == ""


@pytest.mark.parametrize(
    "value",
    [
        '"\\ud800"',
        '{"\\udfff": 1}',
        "[" * 900 + "]" * 900,
        "[" * 40 + "]" * 40,
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 100,
        "9" * 5000,
        "[" * 100_000,
    ],
)
def test_values_that_cannot_be_written_as_json_are_refused(folder: Path, value: str) -> None:
    """Every value of a manifest is sent to clients as JSON."""
    text = (folder / MANIFEST).read_text()
    for member in ("evaluation", "training"):
        changed = text.replace(f'"{member}": {{}}', f'"{member}": {{"a": {value}}}')
        assert changed != text
        (folder / MANIFEST).write_text(changed)
        with pytest.raises(BundleError, match="is not JSON"):
            read_bundle(folder)


@pytest.mark.parametrize(
    "text",
    ["\x1b[31mred", "a\nb", "a\0b", "\x7f", "\x9b1A", "\u202eltr", "\u2028", "\u2066", "x" * 1001],
)
def test_labels_and_names_are_plain_text(folder: Path, text: str) -> None:
    for member in ("labels", "sensitivity__method", "noise__placement"):
        before = (folder / MANIFEST).read_text()
        change(folder, **{member: ["a", "b", text] if member == "labels" else text})
        with pytest.raises(BundleError) as caught:
            read_bundle(folder)
        assert text not in str(caught.value)
        (folder / MANIFEST).write_text(before)
    change(folder, labels=["é", "鳥", "👩‍🔬 a-b_c.d'"])
    assert read_bundle(folder).manifest.labels[1] == "鳥"


@pytest.fixture
def samples(folder: Path) -> Path:
    (folder / SAMPLES).mkdir()
    return folder / SAMPLES


def test_samples_are_read_in_the_order_of_their_names(folder: Path, samples: Path) -> None:
    assert read_bundle(folder).samples == []
    for name in ("02-b.jpg", "01 a.PNG", ".DS_Store"):
        (samples / name).write_bytes(name.encode())
    bundle = read_bundle(folder)
    assert bundle.samples == ["01 a.PNG", "02-b.jpg"]
    assert bundle.sample("02-b.jpg") == b"02-b.jpg"
    for name in (".DS_Store", "03.png", "../model.json", ""):
        with pytest.raises(BundleError, match="no sample of that name"):
            bundle.sample(name)


@pytest.mark.parametrize(
    "name", ["a.svg", "a.html", "a", "-a.png", "é.png", "a\n.png", "a" * 61 + ".png", "a?.png"]
)
def test_samples_with_other_names_are_refused(folder: Path, samples: Path, name: str) -> None:
    (samples / name).write_bytes(b"")
    with pytest.raises(BundleError, match="cannot be a sample's"):
        read_bundle(folder)


def test_samples_are_bounded(folder: Path, samples: Path) -> None:
    for number in range(MOST_SAMPLES):
        (samples / f"{number}.png").write_bytes(b"x" * LARGEST_SAMPLE)
    bundle = read_bundle(folder)
    assert len(bundle.samples) == MOST_SAMPLES
    (samples / "0.png").write_bytes(b"x" * (LARGEST_SAMPLE + 1))
    with pytest.raises(BundleError, match=f"more than {LARGEST_SAMPLE:,} bytes"):
        read_bundle(folder)
    with pytest.raises(BundleError, match="more than"):
        bundle.sample("0.png")
    (samples / "0.png").write_bytes(b"")
    (samples / "one-more.png").write_bytes(b"")
    with pytest.raises(BundleError, match=f"more than {MOST_SAMPLES}"):
        read_bundle(folder)
    assert bundle.samples == []


def test_samples_are_regular_files_only(folder: Path, samples: Path) -> None:
    secret = folder / "secret.png"
    secret.write_bytes(b"secret")
    bundle = read_bundle(folder)
    wrong: list[Callable[[Path], object]] = [
        lambda file: file.symlink_to(secret),
        lambda file: file.symlink_to(samples.parent / MANIFEST),
        lambda file: os.mkfifo(file),
        lambda file: file.mkdir(),
    ]
    for make in wrong:
        make(samples / "a.png")
        with pytest.raises(BundleError, match="not a regular file"):
            read_bundle(folder)
        with pytest.raises(BundleError):
            bundle.sample("a.png")
        if (samples / "a.png").is_dir() and not (samples / "a.png").is_symlink():
            (samples / "a.png").rmdir()
        else:
            (samples / "a.png").unlink()
    outside = folder / "outside"
    samples.rename(outside)
    for lead in (lambda: samples.symlink_to(outside), lambda: samples.write_bytes(b"")):
        lead()
        with pytest.raises(BundleError, match="not a folder"):
            read_bundle(folder)
        samples.unlink()


def test_samples_go_with_their_bundle(folder: Path, samples: Path) -> None:
    (samples / "a.png").write_bytes(b"")
    remove_bundle(folder)
    assert not samples.exists()
    outside = folder / "outside"
    outside.mkdir()
    samples.symlink_to(outside)
    remove_bundle(folder)
    assert outside.exists()
    assert not samples.is_symlink()
