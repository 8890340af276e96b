"""A family: one name, and the target decides which of its models answers."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from models.bundle import read_bundle
from models.verification import verify
from tests.e2e.conftest import PLAIN, Service, Start, copy_bundle

pytestmark = pytest.mark.slow

RAW = {"Content-Type": "image/png"}
NOISE = {"mechanism": "gaussian", "placement": "image"}
# The default is the second of three, which differ only in their noise.
SCALES = {"low": 0.3, "middle": 0.55, "high": 0.8}
LEAST = {"low": 0.0, "middle": 0.2, "high": 0.6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family")
    for name, scale in SCALES.items():
        copy_bundle(path / name, name=name, noise={**NOISE, "scale": scale}, int8=None)
    members = [{"bundle": name, "least_target": least} for name, least in LEAST.items()]
    document = {"format_version": 1, "name": "digits", "default": "middle", "members": members}
    (path / "digits.family.json").write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module", params=["1", pytest.param("2", marks=pytest.mark.slow)])
def served(start: Start, folder: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """The family, served by one front process or by two."""
    settings = {"PIXELDP_FRONTS": request.param, "PIXELDP_REPOSITORY": str(folder)}
    environment = {**PLAIN, **settings}
    running = start(folder / "digits.family.json", environment=environment)
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def ask(served: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.address, headers=RAW) as client:
        yield client


def answer(ask: httpx.Client, picture: bytes, **options: Any) -> dict[str, Any]:
    response = ask.post("/predict", content=picture, params={"max_draws": 200, **options})
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def test_the_target_chooses_the_member_and_the_answer_names_it(
    ask: httpx.Client, folder: Path, seven: bytes
) -> None:
    for options, name in (
        ({}, "middle"),
        ({"target": 0.1}, "low"),
        ({"target": 0.19999}, "low"),
        ({"target": 0.2}, "middle"),
        ({"target": 0.6}, "high"),
        ({"target": 1e9}, "high"),
        ({"target": 0.1, "model": "digits"}, "low"),
        ({"target": 0.1, "model": "high"}, "high"),
        # Of 28 x 28 values: √784 = 28 times as large in L2.
        ({"target": 0.2 / 29, "norm": "linf"}, "low"),
        ({"target": 0.2 / 27, "norm": "linf"}, "middle"),
        ({"target": 0.7, "norm": "linf"}, "high"),
        ({"target": 0.59, "norm": "l1"}, "middle"),
    ):
        found = answer(ask, seven, **options)
        assert found["model"]["name"] == name, options
        assert found["model"]["digest"] == read_bundle(folder / name).digest
        assert found["noise"]["scale"] == SCALES[name]


def test_the_target_is_one_of_the_picture_as_sent(ask: httpx.Client, seven: bytes) -> None:
    """Halving the sides halves the L2 size of the largest changes."""
    large = io.BytesIO()
    Image.open(io.BytesIO(seven)).resize((56, 56)).save(large, "PNG")
    for target, name in ((0.3, "low"), (0.45, "middle"), (1.0, "middle"), (1.5, "high")):
        found = answer(ask, large.getvalue(), target=target)
        assert found["model"]["name"] == name
        assert found["preprocessing"]["sensitivity"] == pytest.approx(0.5, rel=0.01)


def test_its_answers_can_be_verified(ask: httpx.Client, seven: bytes) -> None:
    for target in (0.1, 0.3, 0.7):
        found = answer(ask, seven, target=target, evidence=True)
        assert verify(found) == []


def test_a_batch_and_a_stream(ask: httpx.Client, seven: bytes) -> None:
    large = io.BytesIO()
    Image.fromarray(np.zeros((56, 56), np.uint8)).save(large, "PNG")
    files = [("image", ("a.png", seven)), ("image", ("b.png", large.getvalue()))]
    with httpx.Client(base_url=ask.base_url) as client:
        options = {"target": 0.3, "max_draws": 200, "model": "digits"}
        found = client.post("/predict/batch", files=files, params=options).json()["predictions"]
    assert [one["model"]["name"] for one in found] == ["middle", "low"]
    stream = ask.post("/predict/stream", content=seven, params={"target": 0.7}).text
    assert json.loads(stream.partition("event: answer\ndata: ")[2])["model"]["name"] == "high"


def test_it_is_listed(ask: httpx.Client) -> None:
    [family] = ask.get("/models").json()["families"]
    assert family == {
        "name": "digits",
        "default": "middle:1",
        "members": [{"model": f"{name}:1", "least_target": LEAST[name]} for name in LEAST],
    }
    models = ask.get("/models").json()["models"]
    assert [one["name"] for one in models if one["default"]] == ["middle"]
    assert ask.get("/models/digits").json()["name"] == "middle"
    unknown = ask.get("/models/digits:1")
    assert unknown.status_code == 404
    assert "digits" in unknown.json()["detail"]


def test_the_open_inference_protocol(ask: httpx.Client, folder: Path, seven: bytes) -> None:
    assert ask.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
    described = ask.get("/v2/models/digits").json()
    assert (described["name"], described["versions"]) == ("digits", [])
    assert described["parameters"] == {
        "default": "middle:1",
        "members": '["low:1", "middle:1", "high:1"]',
        "least_targets": "[0.0, 0.2, 0.6]",
    }
    assert "parameters" not in ask.get("/v2/models/low").json()
    pixels = np.asarray(Image.open(io.BytesIO(seven))).ravel().tolist()
    tensor = {"name": "IMAGE", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": pixels}
    for parameters, name in (({}, "middle"), ({"target": 0.1}, "low"), ({"target": 0.6}, "high")):
        body = {"inputs": [tensor], "parameters": {"max_draws": 200, **parameters}}
        found = ask.post("/v2/models/digits/infer", json=body).json()
        assert (found["model_name"], found["model_version"]) == (name, "1")
        assert found["parameters"]["digest"] == read_bundle(folder / name).digest


def test_pictures_of_several_members_in_one_request(ask: httpx.Client, seven: bytes) -> None:
    large = io.BytesIO()
    Image.fromarray(np.zeros((56, 56), np.uint8)).save(large, "PNG")
    lengths = [len(one).to_bytes(4, "little") + one for one in (seven, large.getvalue())]
    body = json.dumps(
        {
            "inputs": [
                {
                    "name": "IMAGE_BYTES",
                    "datatype": "BYTES",
                    "shape": [2, 1],
                    "parameters": {"binary_data_size": sum(map(len, lengths))},
                }
            ],
            "parameters": {"target": 0.3, "max_draws": 200},
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    reply = ask.post(
        "/v2/models/digits/infer", content=b"".join([body, *lengths]), headers=headers
    ).json()
    assert reply["model_name"] == "digits"
    assert "model_version" not in reply
    assert json.loads(reply["parameters"]["models"]) == ["middle:1", "low:1"]
    assert len(set(json.loads(reply["parameters"]["digest"]))) == 2


def test_another_member_never_stands_in(ask: httpx.Client, seven: bytes) -> None:
    """This comes last, as a member leaves and comes back."""
    assert ask.post("/v2/repository/models/high/unload").status_code == 200
    refused = ask.post("/predict", content=seven, params={"target": 0.7})
    assert refused.status_code == 404
    assert refused.json()["type"] == "/problems/unknown-model"
    assert "high:1, which answers this for the family digits" in refused.json()["detail"]
    assert answer(ask, seven, target=0.3)["model"]["name"] == "middle"
    assert ask.post("/v2/repository/models/high/load").status_code == 200
    assert answer(ask, seven, target=0.7)["model"]["name"] == "high"


@pytest.mark.slow
def test_the_page_lets_the_size_choose_the_member(served: Service) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("the page is not tested: there is no chromium here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(reduced_motion="reduce")
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served.address)
        expect(page.locator("#facts")).to_be_visible(timeout=60_000)
        expect(page.locator("#target")).to_be_hidden()
        page.locator("#model").select_option(label="digits, a family · 28 × 28 grey")
        for size, name in (("0.1", "low"), ("0.7", "high"), ("", "middle")):
            page.locator("#target").fill(size)
            page.locator("#target").press("Tab")
            expect(page.locator("#facts")).to_contain_text(f"Model{name} 1", timeout=60_000)
        expect(page.locator("#curl")).to_contain_text("model=digits")
        assert errors == []
        browser.close()


def listed(ask: httpx.Client) -> dict[tuple[str, str], str]:
    entries = ask.post("/v2/repository/index").json()
    return {(one["name"], one["version"]): one["state"] for one in entries}


def manage(ask: httpx.Client, name: str, what: str, **parameters: Any) -> int:
    body = {"parameters": parameters}
    return ask.post(f"/v2/repository/models/{name}/{what}", json=body).status_code


@pytest.mark.slow
def test_families_leave_and_come_back_while_serving(
    ask: httpx.Client, folder: Path, seven: bytes
) -> None:
    """The family that was given at the start, and another of the repository."""
    assert listed(ask)["digits", ""] == "READY"
    assert manage(ask, "digits", "unload") == 200
    assert listed(ask)["digits", ""] == "UNAVAILABLE"
    assert ask.get("/models").json()["families"] == []
    gone = ask.post("/predict", content=seven, params={"model": "digits"})
    assert gone.json()["type"] == "/problems/unknown-model"
    assert answer(ask, seven, model="high")["model"]["name"] == "high", "members stay"

    document = json.loads((folder / "digits.family.json").read_text())
    document["members"] = [one for one in document["members"] if one["bundle"] != "high"]
    (folder / "few.family.json").write_text(json.dumps({**document, "name": "few"}))
    assert manage(ask, "few", "load") == 200
    assert answer(ask, seven, model="few", target=9)["model"]["name"] == "middle"
    # Loading it again replaces it.
    document["default"] = "low"
    (folder / "few.family.json").write_text(json.dumps({**document, "name": "few"}))
    assert manage(ask, "few", "load") == 200
    assert answer(ask, seven, model="few")["model"]["name"] == "low"
    assert manage(ask, "few", "unload", unload_dependents="yes") == 400
    assert manage(ask, "few", "unload", unload_dependents=True) == 200
    states = listed(ask)
    assert {name: states[name, "1"] for name in SCALES} == {
        "low": "UNAVAILABLE",
        "middle": "UNAVAILABLE",
        "high": "READY",
    }
    # A family brings its members.
    assert manage(ask, "digits", "load") == 200
    assert answer(ask, seven, target=0.1)["model"]["name"] == "low"
    assert listed(ask)["digits", ""] == "READY"


def test_families_that_cannot_be_loaded_change_nothing(ask: httpx.Client, folder: Path) -> None:
    document = json.loads((folder / "digits.family.json").read_text())
    (folder / "linked").symlink_to(folder / "low")
    linked = [{"bundle": "linked", "least_target": 0}]
    for name, change in (
        ("another", {"name": "digits"}),
        ("low", {"name": "low"}),
        ("linked-one", {"name": "linked-one", "default": "linked", "members": linked}),
        ("nobody", {"name": "nobody", "default": "nobody"}),
    ):
        file = folder / f"{name}.family.json"
        file.write_text(json.dumps({**document, **change}))
        assert 400 <= manage(ask, name, "load") < 500, name
        file.unlink()
    (folder / "linked").unlink()
    assert [one["name"] for one in ask.get("/models").json()["families"]] == ["digits"]


def test_a_family_that_cannot_be_served_is_refused_in_one_line(folder: Path) -> None:
    file = folder / "wrong.family.json"
    document = json.loads((folder / "digits.family.json").read_text())
    members = [{"bundle": "absent", "least_target": 0}]
    for change, complaint in (
        ({"name": "low"}, "low is already the name of another model"),
        ({"default": "nobody"}, "is not a member's bundle"),
        ({"members": members, "default": "absent"}, "absent/model.json"),
    ):
        file.write_text(json.dumps({**document, **change}))
        with pytest.raises(AssertionError, match=complaint):
            Service(str(file), environment=PLAIN)
