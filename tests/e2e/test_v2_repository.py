"""Listing, loading and unloading models while serving, with the stock client."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from models.bundle import ZOO
from service.http.guards.keys import add
from tests.e2e.conftest import PLAIN, ROOT, Service, Start, copy_bundle

NAME, SECOND = "mnist-cnn", "second"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    copy_bundle(root / SECOND / "1", name=SECOND, version="1")
    copy_bundle(root / SECOND / "2", name=SECOND, version="2")
    copy_bundle(root / "damaged", name="damaged")
    (root / "damaged" / "weights.safetensors").write_bytes(b"nothing")
    copy_bundle(root / "disguised", name=NAME)
    copy_bundle(root / "misplaced" / "7", name="misplaced", version="8")
    (root / "illegible").mkdir()
    (root / "illegible" / "model.json").write_text("[")
    (root / "empty").mkdir()
    (root / "outside").symlink_to(ZOO / NAME)
    return root


@pytest.fixture(scope="module")
def running(
    start: Start, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    secrets = {scope: add(keys, scope, [scope], None) for scope in ("predict", "admin")}
    given = {"PIXELDP_KEYS": str(keys), "PIXELDP_REPOSITORY": str(repository)}
    service = start(environment={**PLAIN, **given})
    yield service, secrets
    assert service.stop() == 0, service.log


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def stock(running: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(running[0].address.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def admin(running: Any) -> dict[str, str]:
    return bearer(running[1]["admin"])


@pytest.fixture
def user(running: Any) -> dict[str, str]:
    return bearer(running[1]["predict"])


@pytest.fixture
def seven() -> Any:
    pixels = np.asarray(Image.open(ROOT / "examples" / "7.png"))[None, :, :, None]
    return triton.InferInput("IMAGE", [1, 28, 28, 1], "UINT8").set_data_from_numpy(pixels)


@pytest.mark.slow
def test_until_it_is_ready_it_says_so_in_the_protocols_own_form() -> None:
    service = Service(environment=PLAIN)
    try:
        infer = f"{service.address}/v2/models/{NAME}/infer"
        given = {"Inference-Header-Content-Length": "0"}
        early = httpx.post(infer, content=bytes(784), headers=given)
        assert early.status_code == 503, early.text
        assert early.json()["error"].startswith("not-ready: ")
        assert early.headers["Retry-After"] == "1"
        service.wait_ready()
        assert httpx.post(infer, content=bytes(784), headers=given).status_code == 200
    finally:
        assert service.stop() == 0, service.log


@pytest.mark.slow
def test_scopes(stock: Any, admin: dict[str, str], user: dict[str, str], seven: Any) -> None:
    assert stock.is_server_live()
    assert stock.is_server_ready()
    assert stock.get_server_metadata()["name"] == "pixeldp"
    assert stock.infer(NAME, [seven], headers={**user}).as_numpy("LABEL").tolist() == [[7]]
    assert stock.is_model_ready(NAME, headers=user)
    for headers, status in ((None, "401"), (admin, "403")):
        for ask in (
            lambda headers: stock.infer(NAME, [seven], headers=headers),
            lambda headers: stock.get_model_metadata(NAME, headers=headers),
        ):
            with pytest.raises(InferenceServerException) as caught:
                ask(headers)
            assert caught.value.status() == status
    for headers, status in ((None, "401"), (user, "403")):
        for manage in (
            stock.get_model_repository_index,
            lambda headers: stock.load_model(SECOND, headers=headers),
            lambda headers: stock.unload_model(NAME, headers=headers),
        ):
            with pytest.raises(InferenceServerException) as caught:
                manage(headers=headers)
            assert caught.value.status() == status


def test_the_index_lists_models_served_and_available(
    running: Any, stock: Any, admin: dict[str, str]
) -> None:
    index = stock.get_model_repository_index(headers=admin)
    states = {(one["name"], one["version"]): (one["state"], one["reason"]) for one in index}
    assert len(states) == len(index)
    assert states == {
        (NAME, "1"): ("READY", ""),
        (SECOND, "1"): ("UNAVAILABLE", "not loaded"),
        (SECOND, "2"): ("UNAVAILABLE", "not loaded"),
        ("damaged", "1"): ("UNAVAILABLE", "not loaded"),
        ("disguised", ""): ("UNAVAILABLE", f"The bundle in disguised calls itself {NAME}."),
        ("illegible", ""): ("UNAVAILABLE", "The file model.json of illegible cannot be read."),
        ("misplaced", ""): ("UNAVAILABLE", "The bundle in misplaced/7 is of version 8."),
    }
    url = f"{running[0].address}/v2/repository/index"
    [ready] = httpx.post(url, json={"ready": True}, headers=admin).json()
    assert ready["name"] == NAME


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("other", "404", "There is no other"),
        ("empty", "404", "There is no empty"),
        ("outside", "404", "There is no outside"),
        ("..", "404", ""),
        ("%2e%2e", "404", ""),
        ("..%2f..%2fetc", "404", ""),
        (".hidden", "404", "not beginning with a dot"),
        ("second%00", "404", ""),
        ("x" * 5000, "404", ""),
        ("disguised", "400", "calls itself mnist-cnn"),
        ("misplaced", "400", "is of version 8"),
        ("illegible", "400", "cannot be read"),
    ],
)
def test_models_that_cannot_be_loaded(
    running: Any, admin: dict[str, str], name: str, status: str, text: str
) -> None:
    url = f"{running[0].address}/v2/repository/models/{name}/load"
    response = httpx.post(url, headers=admin)
    assert response.status_code == int(status)
    assert list(response.json()) == ["error"]
    assert text in response.json()["error"]


def test_options_of_loading_are_refused(stock: Any, admin: dict[str, str]) -> None:
    with pytest.raises(InferenceServerException, match="without parameters") as caught:
        stock.load_model(SECOND, config='{"name": "x"}', headers=admin)
    assert caught.value.status() == "501"


def test_unloading_a_model_that_is_not_served(stock: Any, admin: dict[str, str]) -> None:
    for name in ("other", SECOND, f"{NAME}:1"):
        with pytest.raises(InferenceServerException, match="unknown-model") as caught:
            stock.unload_model(name, headers=admin)
        assert caught.value.status() == "404"


@pytest.mark.parametrize("body", ["[]", "{", '{"ready": "yes"}', '{"parameters": 1}', "null"])
def test_malformed_bodies(running: Any, admin: dict[str, str], body: str) -> None:
    for path in ("index", f"models/{NAME}/load", f"models/{NAME}/unload"):
        url = f"{running[0].address}/v2/repository/{path}"
        response = httpx.post(url, content=body, headers=admin)
        assert response.status_code == 400
        assert list(response.json()) == ["error"]


def test_without_a_repository_nothing_can_be_loaded(service: Service) -> None:
    response = httpx.post(f"{service.address}/v2/repository/models/{SECOND}/load")
    assert response.status_code == 501
    assert "PIXELDP_REPOSITORY" in response.json()["error"]
    [entry] = httpx.post(f"{service.address}/v2/repository/index").json()
    assert entry == {"name": NAME, "version": "1", "state": "READY", "reason": ""}


@pytest.mark.slow
def test_one_version_comes_and_goes(
    running: Any, stock: Any, admin: dict[str, str], user: dict[str, str]
) -> None:
    def ready() -> list[str]:
        index = stock.get_model_repository_index(headers=admin)
        return [
            one["version"] for one in index if one["name"] == SECOND and one["state"] == "READY"
        ]

    def manage(action: str, body: Any = None, version: str = "") -> httpx.Response:
        of = f"{SECOND}/versions/{version}" if version else SECOND
        url = f"{running[0].address}/v2/repository/models/{of}/{action}"
        return httpx.post(url, json=body, headers=admin, timeout=300)

    assert manage("load", version="1").status_code == 200
    assert ready() == ["1"]
    assert manage("load", {"parameters": {"version": 2}}).status_code == 200
    assert ready() == ["1", "2"]
    assert manage("unload", version="2").status_code == 200
    assert ready() == ["1"]
    assert manage("unload", version="2").status_code == 404
    assert manage("load", version="3").status_code == 404
    # Options that would be ignored are refused, and nothing changes.
    for body, status in (
        ({"version": "2"}, 400),
        ({"parameters": {"version": "two"}}, 400),
        ({"parameters": {"version": 2.0}}, 400),
        ({"parameters": {"versions": "2"}}, 501),
    ):
        for action in ("load", "unload"):
            assert manage(action, body).status_code == status, (action, body)
    assert ready() == ["1"]
    stock.load_model(SECOND, headers=admin)
    assert manage("unload", {"parameters": {"version": "1"}}).status_code == 200
    assert ready() == ["2"]
    stock.unload_model(SECOND, headers=admin)
    assert ready() == []


@pytest.mark.slow
def test_the_default_leaves_and_comes_back(
    running: Any, stock: Any, admin: dict[str, str], user: dict[str, str]
) -> None:
    """Another model is served meanwhile, but does not answer in its place."""
    content = (ROOT / "examples" / "7.png").read_bytes()

    def predict(**options: Any) -> httpx.Response:
        raw = {**user, "Content-Type": "application/octet-stream"}
        url = f"{running[0].address}/predict"
        return httpx.post(url, content=content, headers=raw, params={"max_draws": 128, **options})

    stock.load_model(SECOND, headers=admin)
    assert predict().json()["model"]["name"] == NAME
    stock.unload_model(NAME, headers=admin)
    answer = predict()
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith(f"The default model is '{NAME}:1'. No model ")
    assert predict(model=SECOND).status_code == 200
    models = httpx.get(f"{running[0].address}/models", headers=user).json()["models"]
    assert [model["default"] for model in models] == [False, False]
    # It lies outside the repository.
    index = stock.get_model_repository_index(headers=admin)
    assert ("UNAVAILABLE", "not loaded") in {
        (one["state"], one["reason"]) for one in index if one["name"] == NAME
    }
    stock.load_model(NAME, headers=admin)
    assert predict().json()["model"]["name"] == NAME
    stock.unload_model(SECOND, headers=admin)


def test_a_model_comes_and_goes_while_others_are_served(
    running: Any,
    repository: Path,
    stock: Any,
    admin: dict[str, str],
    user: dict[str, str],
    seven: Any,
) -> None:
    def states() -> dict[tuple[str, str], str]:
        index = stock.get_model_repository_index(headers=admin)
        return {(one["name"], one["version"]): one["state"] for one in index}

    def infer(version: str = "") -> tuple[str, list[list[int]]]:
        few = {"max_draws": 128}
        # The stock client adds its own headers to the given ones.
        result = stock.infer(SECOND, [seven], version, headers={**user}, parameters=few)
        return result.get_response()["model_version"], result.as_numpy("LABEL").tolist()

    def digest() -> str:
        url = f"{running[0].address}/models/{SECOND}:2"
        return str(httpx.get(url, headers=user).json()["digest"])

    assert not stock.is_model_ready(SECOND, headers=user)
    stock.load_model(SECOND, headers=admin)
    assert states()[SECOND, "1"] == states()[SECOND, "2"] == states()[NAME, "1"] == "READY"
    assert stock.is_model_ready(SECOND, "1", headers=user)
    assert stock.get_model_metadata(SECOND, headers=user)["versions"] == ["1", "2"]
    assert infer() == infer("2") == ("2", [[7]])
    assert infer("1") == ("1", [[7]])

    # A bundle with another's weights is refused, and nothing changes.
    before = states()
    with pytest.raises(InferenceServerException, match="cannot-load") as caught:
        stock.load_model("damaged", headers=admin)
    assert caught.value.status() == "400"
    assert states() == before

    # Loading it again picks up changes on disk.
    former = digest()
    stock.load_model(SECOND, headers=admin)
    assert digest() == former
    description = repository / SECOND / "2" / "model.json"
    changed = json.loads(description.read_text()) | {"labels": list("abcdefghij")}
    description.write_text(json.dumps(changed))
    stock.load_model(SECOND, headers=admin)
    assert digest() != former
    url = f"{running[0].address}/predict?model={SECOND}&target=0.5"
    raw = {**user, "Content-Type": "application/octet-stream"}
    content = (ROOT / "examples" / "7.png").read_bytes()
    assert httpx.post(url, content=content, headers=raw).json()["label"]["name"] == "h"

    stock.unload_model(SECOND, headers=admin)
    assert states()[SECOND, "1"] == states()[SECOND, "2"] == "UNAVAILABLE"
    assert not stock.is_model_ready(SECOND, headers=user)
    with pytest.raises(InferenceServerException, match="unknown-model"):
        infer()
    assert stock.infer(NAME, [seven], headers={**user}).as_numpy("LABEL").tolist() == [[7]]


@pytest.mark.slow
def test_of_several_versions_all_are_loaded_or_none(
    running: Any, repository: Path, admin: dict[str, str], user: dict[str, str]
) -> None:
    address = running[0].address
    copy_bundle(repository / "half" / "1", name="half", version="1")
    # Only building the network shows that its weights are for ten labels.
    labels = [str(label) for label in range(11)]
    copy_bundle(repository / "half" / "2", name="half", version="2", labels=labels)
    try:
        url = f"{address}/v2/repository/models/half"
        refused = httpx.post(f"{url}/load", headers=admin, timeout=100)
        assert refused.status_code == 400, refused.text
        assert httpx.get(f"{address}/v2/models/half", headers=user).status_code == 404
        shutil.rmtree(repository / "half" / "2")
        assert httpx.post(f"{url}/load", headers=admin, timeout=100).status_code == 200
        assert httpx.get(f"{address}/v2/models/half", headers=user).status_code == 200
        assert httpx.post(f"{url}/unload", headers=admin, timeout=100).status_code == 200
    finally:
        shutil.rmtree(repository / "half")
