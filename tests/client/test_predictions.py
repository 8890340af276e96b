"""What the client asks a real service, and how it reads the answers."""

import asyncio
import io
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pixeldp_client
from pixeldp_client import (
    AsyncClient,
    BadRequest,
    Client,
    Look,
    NotRobust,
    Prediction,
    Timeout,
    Unauthorized,
    Unreachable,
)
from service.cli.main import main
from tests.e2e.conftest import ROOT, Service

# Pure noise, in which the shipped model sees an 8 and a 3 about equally often.
UNDECIDED = np.random.default_rng(16).integers(0, 256, (28, 28)).astype(np.uint8)


def test_a_prediction_has_everything_the_service_says(client: Client, seven: bytes) -> None:
    prediction = client.predict(seven, target=0.5, confidence=0.999, evidence=True)
    raw = prediction.raw
    assert prediction.label == pixeldp_client.Label(7, "7")
    assert prediction.robust is prediction.is_robust is True
    assert prediction.certified_size == raw["certified_size"] >= 0.5
    assert prediction.model.digest == raw["model"]["digest"]
    assert prediction.model.rows == raw["model"]["rows"] == "built-in"
    assert (prediction.norm, prediction.target, prediction.confidence) == ("l2", 0.5, 0.999)
    assert prediction.stopped == "target_certified"
    assert prediction.draws == raw["draws"] < prediction.budget.asked == 1000
    assert len(prediction.scores) == 10
    best = prediction.scores[0]
    assert best.attacked is not None
    assert best.attacked.lower < best.lower <= best.expected <= best.upper <= 1
    assert prediction.certificate.sizes["l2"] == prediction.certified_size
    assert prediction.certificate.paper.size < prediction.certified_size
    assert prediction.noise.mechanism == "gaussian"
    assert prediction.picture == pixeldp_client.Picture(28, 28, "L", 8)
    assert prediction.preprocessing.steps == ()
    assert prediction.compute.device == "cpu"
    assert prediction.compute.provider == "pytorch"
    assert prediction.compute.pass_size >= 8
    assert prediction.timing_ms.total > 0
    assert raw["evidence"]["label"] == 7


def test_answers_can_be_verified(client: Client, seven: bytes, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps(client.predict(seven, target=0.5, evidence=True).raw))
    assert main(["verify", str(answer)]) == 0


def test_predictions_about_stickers(
    client: Client, service: Service, key: str, seven: bytes
) -> None:
    found = client.predict_sticker(seven, 20, scores=1)
    assert (found.threat, found.sticker.label, found.sticker.side) == ("sticker", found.label, 20)
    assert found.robust is found.sticker.certified is found.raw["robust"] is False
    assert (found.confidence, len(found.scores)) == (1, 1)
    assert not hasattr(found, "certified_size")

    async def again() -> pixeldp_client.StickerPrediction:
        async with AsyncClient(service.address, api_key=key) as other:
            return await other.predict_sticker(seven, 20)

    assert asyncio.run(again()).sticker == found.sticker
    with pytest.raises(BadRequest):
        client.predict_sticker(seven, 28)


def test_every_kind_of_picture(client: Client, seven: bytes) -> None:
    image = Image.open(io.BytesIO(seven))
    array = np.asarray(image)
    path = ROOT / "examples" / "7.png"
    for given in (seven, bytearray(seven), memoryview(seven), path, str(path), image, array):
        assert client.predict(given, target=0.5).label.name == "7"
    colour = np.repeat(array[:, :, None], 3, axis=2)
    assert client.predict(colour, target=0.5).picture.mode == "RGB"


def test_a_photograph_from_a_phone(client: Client, seven: bytes, tmp_path: Path) -> None:
    """It is stored on its side with a tag that says so; the answer is about it upright."""
    digit = np.kron(np.asarray(Image.open(io.BytesIO(seven))), np.ones((108, 108), np.uint8))
    upright = np.pad(digit, ((504, 504), (0, 0)))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "IMG_0007.JPG"
    Image.fromarray(np.rot90(upright)).convert("RGB").save(path, "JPEG", exif=exif)
    found = client.predict(path, target=0.1)
    assert (found.picture.width, found.picture.height, found.picture.mode) == (3024, 4032, "RGB")
    assert found.preprocessing.steps[1].startswith("resize 3024x4032 to ")
    assert (found.label.name, found.certified_size > 0) == ("7", True)
    about_stickers = client.predict_sticker(path, 200)
    assert (about_stickers.sticker.side, about_stickers.picture) == (200, found.picture)


def test_robust_or_not(client: Client, seven: bytes) -> None:
    robust = client.predict(seven, target=0.5)
    assert robust.require_robust() is robust
    assert robust.or_(lambda reason: "another") is robust
    assert client.predict(seven, target=0.5, require_robust=True).robust
    assert isinstance(client.predict_or(seven, lambda reason: "another", target=0.5), Prediction)

    not_robust = client.predict(seven, target=5)
    assert not_robust.robust is not_robust.is_robust is False
    assert not_robust.or_(lambda reason: reason.prediction.label.name) == "7"
    with pytest.raises(NotRobust, match=r"'7' is not robust: its certified size in l2 is .* 5 was"):
        not_robust.require_robust()
    with pytest.raises(NotRobust) as caught:
        client.predict(seven, target=5, require_robust=True)
    assert caught.value.prediction.label.name == "7"
    assert caught.value.prediction.certified_size > 0
    assert client.predict_or(seven, lambda reason: reason, target=5).prediction.target == 5
    copied = pickle.loads(pickle.dumps(caught.value))
    assert copied.prediction == caught.value.prediction
    assert str(copied) == str(caught.value)


def test_with_allow_a_set_of_labels_is_required(client: Client, seven: bytes) -> None:
    for allow in (["1", 7], "1,7"):
        allowed = client.predict(seven, target=0.3, allow=allow, require_robust=True)
        assert allowed.certain is not None
        assert [label.name for label in allowed.certain.labels] == ["7"]
        assert allowed.certain.within_allowed is allowed.is_robust is True
    with pytest.raises(NotRobust, match=r"1 labels may be first up to the target 0\.3"):
        client.predict(seven, target=0.3, allow=[1, 2], require_robust=True)
    assert client.predict(seven).certain is None


def test_without_a_target_any_size_is_enough(client: Client, seven: bytes) -> None:
    certified = client.predict(seven, require_robust=True)
    assert certified.robust is None
    assert certified.is_robust
    with pytest.raises(NotRobust, match="any size was required") as caught:
        client.predict(UNDECIDED, require_robust=True, confidence=1 - 1e-6, max_draws=200)
    assert caught.value.prediction.certified_size == 0
    assert not caught.value.prediction.is_robust


def test_wrong_requests_do_not_go_to_the_fallback(
    client: Client, service: Service, seven: bytes
) -> None:
    def fail(reason: object) -> None:
        raise AssertionError(reason)

    with pytest.raises(BadRequest):
        client.predict_or(b"nothing", fail, target=0.5)
    with pytest.raises(Unauthorized), Client(service.address) as stranger:
        stranger.predict_or(seven, fail, target=0.5)
    with Client("http://127.0.0.1:9", timeout=0.2) as lost:
        assert isinstance(lost.predict_or(seven, lambda reason: reason, target=1), Unreachable)


def test_a_batch(client: Client, seven: bytes) -> None:
    first, second, third = client.predict_batch([seven, b"nothing", UNDECIDED], target=0.5)
    assert isinstance(first, Prediction)
    assert first.robust
    assert isinstance(second, BadRequest)
    assert second.problem == "not-a-picture"
    assert isinstance(third, Prediction)
    assert client.predict_batch([]) == []
    with pytest.raises(BadRequest, match="target"):
        client.predict_batch([seven], target=-1)


def test_a_stream(client: Client, seven: bytes) -> None:
    *looks, answer = client.stream(seven, confidence=0.999, max_draws=2000)
    assert len(looks) > 3
    assert all(isinstance(look, Look) for look in looks)
    assert [look.draws for look in looks] == sorted({look.draws for look in looks})
    assert {look.label.name for look in looks} == {"7"}
    assert isinstance(answer, Prediction)
    assert answer.certified_size >= looks[-1].certified_size > 0
    assert answer.draws == 2000
    with pytest.raises(BadRequest, match="not-a-picture"):
        list(client.stream(b"nothing"))


def test_a_stream_can_be_abandoned(client: Client, seven: bytes) -> None:
    stream = client.stream(seven, max_draws=100_000)
    assert isinstance(next(stream), Look)
    stream.close()
    assert client.predict(seven, target=0.5).robust


def test_a_time_out_yields_what_has_been_certified(client: Client, seven: bytes) -> None:
    prediction = client.predict(seven, timeout=2.0, max_draws=100_000, confidence=0.999)
    assert prediction.stopped == "deadline"
    assert prediction.certified_size > 0
    assert prediction.draws < 100_000
    with pytest.raises(Timeout):
        client.predict(seven, timeout=0.0001)
    with pytest.raises(ValueError, match="timeout is 0"):
        client.predict(seven, timeout=0)


def test_models(client: Client) -> None:
    [model] = client.models()
    assert (model.name, model.version, model.input_shape) == ("mnist-cnn", "1", (1, 28, 28))
    assert model.labels == tuple("0123456789")
    assert model.raw["noise"]["scale"] == model.noise.scale


def test_readiness(client: Client) -> None:
    assert client.ready()
    with Client("http://127.0.0.1:9") as lost:
        assert not lost.ready()


def test_errors_say_what_the_service_says(client: Client, service: Service, seven: bytes) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], int, str, dict[str, Any]]] = [
        ({"image": b"nothing"}, BadRequest, 400, "not-a-picture", {}),
        ({"model": "other"}, BadRequest, 404, "unknown-model", {}),
        ({"target": -1}, BadRequest, 422, "option-out-of-range", {"option": "target"}),
        ({"traget": 1}, BadRequest, 422, "option-out-of-range", {"option": "traget"}),
        (
            {"confidence": 1 - 1e-12, "max_draws": 64},
            BadRequest,
            422,
            "confidence-out-of-reach",
            {"option": "confidence"},
        ),
    ]
    for arguments, kind, status, problem, members in cases:
        with pytest.raises(kind) as caught:
            client.predict(**{"image": seven, **arguments})
        assert type(caught.value) is kind
        assert (caught.value.status, caught.value.problem) == (status, problem)
        assert members.items() <= caught.value.members.items()
        assert str(caught.value).startswith(f"{problem}: ")
        assert caught.value.request_id
    for key in (None, "pixeldp_wrong"):
        with Client(service.address, api_key=key) as stranger:
            with pytest.raises(Unauthorized, match="no-key") as refused:
                stranger.predict(seven)
            assert refused.value.status == 401
    assert "pixeldp_" not in repr(vars(client)["_http"])


def test_threads_may_share_a_client(client: Client, seven: bytes) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.predict(seven, target=0.5), range(32)))
    assert all(answer.robust for answer in answers)


def test_the_asynchronous_client(service: Service, key: str, seven: bytes) -> None:
    async def run() -> None:
        async with AsyncClient(service.address, api_key=key) as client:
            assert await client.ready()
            assert [model.name for model in await client.models()] == ["mnist-cnn"]
            answers = await asyncio.gather(*(client.predict(seven, target=0.5) for _ in range(8)))
            assert all(answer.robust for answer in answers)
            with pytest.raises(NotRobust):
                await client.predict(seven, target=5, require_robust=True)
            assert await client.predict_or(seven, lambda reason: "another", target=5) == "another"

            async def think(reason: object) -> str:
                await asyncio.sleep(0)
                return "thought"

            assert await client.predict_or(seven, think, target=5) == "thought"
            assert isinstance(await client.predict_or(seven, think, target=0.5), Prediction)
            first, second = await client.predict_batch([seven, b"nothing"])
            assert isinstance(first, Prediction)
            assert isinstance(second, BadRequest)
            assert await client.predict_batch([]) == []
            told = [step async for step in client.stream(seven, max_draws=2000)]
            assert isinstance(told[0], Look)
            assert isinstance(told[-1], Prediction)
            with pytest.raises(BadRequest, match="not-a-picture"):
                await anext(client.stream(b"nothing"))
            left = client.stream(seven, max_draws=100_000)
            assert isinstance(await anext(left), Look)
            await left.aclose()
            certified = await client.predict(seven, timeout=2.0, max_draws=100_000)
            assert certified.stopped == "deadline"

    asyncio.run(run())


def test_it_needs_only_httpx(service: Service, key: str) -> None:
    """Neither numpy nor Pillow nor torch, nor anything of the service."""
    script = f"""
import sys
for name in ("numpy", "PIL", "torch", "models", "service", "pydantic"):
    sys.modules[name] = None
from pixeldp_client import Client
with Client({service.address!r}, api_key={key!r}) as client:
    print(client.predict("examples/7.png", target=0.5).label.name)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("7\n", "")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "host", ""])
def test_invalid_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected http://|Invalid"):
        Client(url)
    with pytest.raises(ValueError, match=r"expected http://|Invalid"):
        AsyncClient(url)
