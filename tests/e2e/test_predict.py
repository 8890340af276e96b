"""A picture in, a certified answer out, over a real socket."""

import base64
import http.client
import io
import json
import time
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
from PIL import Image

from models.bundle import ZOO, read_bundle
from models.certification.division import LEAST_DRAWS

PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def slow() -> bytes:
    """A picture that takes much longer than a millisecond to decode."""
    return png(np.zeros((3000, 3000), dtype=np.uint8))


def ask(client: httpx.Client, content: bytes, **options: Any) -> httpx.Response:
    return client.post("/predict", content=content, headers=PNG, params=options)


def test_a_digit_is_certified(client: httpx.Client, seven: bytes) -> None:
    response = ask(client, seven, target=0.5, confidence=0.999)
    assert response.status_code == 200, response.text
    answer = response.json()
    bundle = read_bundle(ZOO / "mnist-cnn")
    expected = {"name": "mnist-cnn", "version": "1", "digest": bundle.digest, "rows": "built-in"}
    assert answer["model"] == expected
    assert answer["label"] == {"index": 7, "name": "7"}
    assert answer["robust"] is True
    assert answer["certified_size"] >= 0.5
    assert answer["norm"] == "l2"
    assert answer["target"] == 0.5
    assert answer["confidence"] == 0.999
    assert answer["stopped"] == "target_certified"
    assert 16 < answer["draws"] < 1000
    assert answer["budget"] == {"asked": 1000, "granted": 1000, "reachable": True}
    assert answer["scores"][0]["index"] == 7
    assert len(answer["scores"]) == 10
    for score in answer["scores"]:
        assert 0 <= score["lower"] <= score["expected"] <= score["upper"] <= 1
        assert score["attacked"]["lower"] <= score["lower"]
        assert score["attacked"]["upper"] >= score["upper"]
    certificate = answer["certificate"]
    assert certificate["method"] == "gaussian"
    assert certificate["lower"] > certificate["upper"]
    assert certificate["sizes"]["l2"] == answer["certified_size"]
    assert certificate["sizes"]["linf"] == pytest.approx(answer["certified_size"] / 28, rel=1e-5)
    assert certificate["paper"]["method"] == "pixeldp-gaussian"
    assert 0 < certificate["paper"]["size"] < answer["certified_size"]
    assert answer["noise"]["mechanism"] == "gaussian"
    assert answer["noise"]["sensitivity"] == 1.0
    assert answer["picture"] == {"width": 28, "height": 28, "mode": "L", "bits": 8}
    assert answer["preprocessing"] == {"steps": [], "sensitivity": 1.0}
    assert answer["timing_ms"]["total"] > 0
    assert answer["evidence"] is None
    assert response.headers["Certified-Robust"] == "true"
    size, norm, confidence = response.headers["Certified-Size"].split("; ")
    assert float(size) == answer["certified_size"]
    assert (norm, confidence) == ("norm=l2", "confidence=0.999")


def test_size_mode_uses_the_whole_budget(client: httpx.Client, seven: bytes) -> None:
    answer = ask(client, seven, max_draws=500, confidence=0.999).json()
    assert answer["stopped"] == "max_draws"
    assert answer["draws"] == 500
    assert answer["target"] is None
    assert answer["robust"] is None
    assert all(score["attacked"] is None for score in answer["scores"])
    assert ask(client, seven, max_draws=500).headers["Certified-Robust"] == "unknown"


def test_more_confidence_costs_size(client: httpx.Client, seven: bytes) -> None:
    sizes = [
        ask(client, seven, confidence=confidence).json()["certified_size"]
        for confidence in (0.9, 0.999999)
    ]
    assert sizes[0] > sizes[1] > 0


def test_an_unreachable_target_is_answered(client: httpx.Client, seven: bytes) -> None:
    answer = ask(client, seven, target=5, confidence=0.999).json()
    assert answer["robust"] is False
    assert answer["stopped"] == "target_out_of_reach"
    assert answer["budget"]["reachable"] is False
    # The service may give it up before anything is certified.
    assert answer["draws"] < 1000
    assert 0 <= answer["certified_size"] < 5


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_norms_are_converted(client: httpx.Client, seven: bytes, norm: str) -> None:
    answer = ask(client, seven, norm=norm, target=0.01).json()
    assert answer["norm"] == norm
    assert answer["certified_size"] == answer["certificate"]["sizes"][norm]
    assert answer["robust"] == (answer["certified_size"] >= 0.01)


def test_a_picture_can_be_sent_in_every_form(client: httpx.Client, seven: bytes) -> None:
    encoded = base64.b64encode(seven).decode()
    ways = [
        client.post("/predict?target=0.5", content=seven, headers=PNG),
        client.post("/predict?target=0.5", files={"image": ("seven.png", seven, "image/png")}),
        client.post("/predict", json={"image": encoded, "target": 0.5}),
        client.post("/predict?target=0.5", json={"image": encoded}),
    ]
    for response in ways:
        assert response.status_code == 200, response.text
        assert response.json()["label"]["name"] == "7"
        assert response.json()["robust"] is True


def test_require_robust_makes_a_406_with_the_answer(client: httpx.Client, seven: bytes) -> None:
    response = ask(client, seven, target=3, require="robust")
    assert response.status_code == 406
    assert response.json()["robust"] is False
    assert response.json()["label"]["name"] == "7"
    assert response.headers["Certified-Robust"] == "false"
    assert ask(client, seven, target=0.5, require="robust").status_code == 200
    assert ask(client, seven, require="robust").status_code == 200


def test_evidence_holds_the_tally_of_the_certificate(client: httpx.Client, seven: bytes) -> None:
    answer = ask(client, seven, target=0.5, confidence=0.999, evidence=True).json()
    evidence = answer["evidence"]
    assert evidence["label"] == 7
    assert sum(evidence["sums"]) == evidence["draws"]
    assert evidence["draws"] + evidence["pilot_draws"] <= answer["draws"]
    assert evidence["alpha_certificate"] + evidence["alpha_scores"] < 0.001


def test_a_deadline_yields_the_certificate_reached_so_far(
    client: httpx.Client, seven: bytes
) -> None:
    response = ask(client, seven, max_draws=100_000, timeout_ms=700, confidence=0.999)
    assert response.status_code == 200
    answer = response.json()
    assert answer["stopped"] == "deadline"
    assert 16 < answer["draws"] < 100_000
    assert answer["certified_size"] > 0
    assert response.elapsed.total_seconds() < 3


def test_a_deadline_before_the_first_look_is_a_504(client: httpx.Client) -> None:
    for timeout_ms in (1, 4, 16, 64, 256, 1024):
        response = ask(client, slow(), timeout_ms=timeout_ms)
        assert response.status_code == 504
        problem = response.json()
        if "draws" in problem:  # otherwise not even the picture had arrived
            break
    assert problem["type"] == "/problems/deadline-before-first-look"
    assert 0 <= problem["draws"] < problem["draws_needed"] == LEAST_DRAWS
    assert problem["draws_per_second"] > 0
    assert f"set timeout_ms to {problem['timeout_ms_needed']} or more" in problem["detail"]


def test_preprocessing_of_larger_colour_pictures_is_accounted_for(
    client: httpx.Client, seven: bytes
) -> None:
    grey = Image.open(io.BytesIO(seven))
    large = np.asarray(grey.resize((56, 56)).convert("RGB"))
    answer = ask(client, png(large), confidence=0.999).json()
    assert answer["label"]["name"] == "7"
    assert answer["picture"] == {"width": 56, "height": 56, "mode": "RGB", "bits": 8}
    steps = answer["preprocessing"]["steps"]
    assert steps == ["greyscale", "resize 56x56 to 28x28"]
    # Halving the size and conversion to greyscale both shrink a change of the sent pixels.
    assert answer["preprocessing"]["sensitivity"] < 0.6686
    assert answer["certified_size"] > 1
    plain = ask(client, seven, confidence=0.999).json()
    # In L∞ none of the 28 x 28 values moves further than the picture's: better than by conversion.
    assert answer["certificate"]["sizes"]["linf"] == pytest.approx(
        answer["certified_size"] * answer["preprocessing"]["sensitivity"] / 28, rel=1e-3
    )
    assert answer["certificate"]["sizes"]["linf"] > 1.1 * answer["certified_size"] / (56 * 3**0.5)
    assert plain["preprocessing"]["sensitivity"] == 1.0


def test_sixteen_bits_are_kept(client: httpx.Client, seven: bytes) -> None:
    wide = np.asarray(Image.open(io.BytesIO(seven))).astype(np.uint16) * 257
    answer = ask(client, png(wide), target=0.5).json()
    assert answer["picture"]["bits"] == 16
    assert answer["robust"] is True


def test_a_batch_answers_in_order_and_keeps_errors_apart(
    client: httpx.Client, seven: bytes
) -> None:
    blank = png(np.zeros((28, 28), dtype=np.uint8))
    pictures = [seven, b"not a picture", blank, seven]
    encoded = [base64.b64encode(picture).decode() for picture in pictures]
    for response in (
        client.post("/predict/batch", json={"images": encoded, "target": 0.5}),
        client.post("/predict/batch?target=0.5", files=[("image", one) for one in pictures]),
    ):
        assert response.status_code == 200, response.text
        predictions = response.json()["predictions"]
        assert len(predictions) == 4
        assert predictions[0]["label"]["name"] == predictions[3]["label"]["name"] == "7"
        assert predictions[0]["robust"] is True
        assert predictions[1]["error"]["type"] == "/problems/not-a-picture"
        assert "label" in predictions[2]


def test_pictures_share_passes(client: httpx.Client, seven: bytes) -> None:
    def total(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))

    idle(client)
    before = total("pixeldp_slots_total"), total("pixeldp_prediction_draws_sum")
    # One request, so that all are there at the same time however busy the machine is.
    images = [base64.b64encode(seven).decode()] * 64
    response = client.post("/predict/batch?max_draws=100", json={"images": images})
    assert all(answer["draws"] == 100 for answer in response.json()["predictions"])
    idle(client)
    slots = total("pixeldp_slots_total") - before[0]
    draws = total("pixeldp_prediction_draws_sum") - before[1]
    assert draws == 64 * 100
    # Alone, each picture would need 128 slots, be it in one pass or in four small ones.
    assert 64 * 100 <= slots < 0.95 * 64 * 128


def draws(client: httpx.Client) -> float:
    """Return the draws that all workers have reported."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("pixeldp_draws_total{"))


def idle(client: httpx.Client) -> None:
    """Wait until no picture is in flight, and all workers have reported their draws."""
    while "pixeldp_pictures_in_flight 0.0" not in client.get("/metrics").text:
        time.sleep(0.05)
    reported = -1.0
    while reported != (reported := draws(client)):
        time.sleep(1.5)  # each reports every second


@pytest.mark.slow
def test_clients_that_hang_up_do_not_disturb_others(client: httpx.Client, seven: bytes) -> None:
    before = draws(client)
    url = "/predict?max_draws=100000&timeout_ms=600000"
    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            client.post(url, content=seven, headers=PNG, timeout=0.05)
    response = ask(client, seven, target=0.5)
    assert response.json()["robust"] is True
    idle(client)
    # Their slots were freed long before all their draws would have been made.
    assert draws(client) - before < 5 * 100_000 / 2


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("/predict", "/predict"),
        ("/predict/batch", "/predict/batch"),
        ("/v2/models/{name}/infer", "/v2/models/mnist-cnn/infer"),
    ],
)
def test_clients_that_hang_up_are_counted(
    client: httpx.Client, seven: bytes, route: str, path: str
) -> None:
    picture = base64.b64encode(seven).decode()
    bodies: dict[str, dict[str, Any]] = {
        "/predict": {"image": picture},
        "/predict/batch": {"images": [picture]},
        "/v2/models/{name}/infer": {
            "inputs": [
                {"name": "IMAGE", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [0] * 784}
            ],
            "parameters": {"max_draws": 100_000, "timeout": 600_000_000},
        },
    }
    options = {} if path.startswith("/v2") else {"max_draws": 100_000, "timeout_ms": 600_000}

    def left() -> float:
        name = f'pixeldp_requests_total{{outcome="client-left",route="{route}",status="499"}}'
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = left()
    leaving = http.client.HTTPConnection(client.base_url.netloc.decode())
    query = urlencode(options)
    leaving.request("POST", f"{path}?{query}", json.dumps(bodies[route]), JSON)
    while "pixeldp_pictures_in_flight 0.0" in client.get("/metrics").text:
        time.sleep(0.01)
    leaving.close()
    idle(client)
    while left() == before:
        time.sleep(0.01)
    assert left() == before + 1


def test_noise_is_drawn_anew_for_every_request(client: httpx.Client, seven: bytes) -> None:
    """The same request does not get the same tally every time."""
    noisy = (np.asarray(Image.open(io.BytesIO(seven))) * 0.35).astype(np.uint8)
    tallies = {
        str(ask(client, png(noisy), evidence=True).json()["evidence"]["sums"]) for _ in range(4)
    }
    assert len(tallies) > 1


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    blocks = response.read().decode().strip().split("\n\n")
    parts = [block.split("\n", 1) for block in blocks]
    return [(a.removeprefix("event: "), json.loads(b.removeprefix("data: "))) for a, b in parts]


def test_a_stream_sends_every_look_and_then_the_answer(client: httpx.Client, seven: bytes) -> None:
    options = {"confidence": 0.999, "max_draws": 2000}
    with client.stream(
        "POST", "/predict/stream", content=seven, headers=PNG, params=options
    ) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        told = events(response)
    names = [name for name, _ in told]
    assert names[-1] == "answer"
    assert set(names[:-1]) == {"look"}
    looks, answer = [look for _, look in told[:-1]], told[-1][1]
    assert len(looks) > 5
    draws = [look["draws"] for look in looks]
    assert draws == sorted(draws)
    sizes = [look["certified_size"] for look in looks]
    assert sizes == sorted(sizes)
    assert answer["certified_size"] >= sizes[-1] > 0
    assert answer["draws"] == 2000
    widths = [
        look["scores"][0]["upper"] - look["scores"][0]["lower"] for look in (looks[0], looks[-1])
    ]
    assert widths[1] < widths[0]


def test_a_stream_answers_errors_as_errors(client: httpx.Client, seven: bytes) -> None:
    for content, options, status in (
        (b"nothing", {}, 400),
        (seven, {"require": "robust"}, 422),
        (slow(), {"timeout_ms": 1}, 504),
    ):
        response = client.post("/predict/stream", content=content, headers=PNG, params=options)
        assert response.status_code == status
        assert response.headers["Content-Type"] == "application/problem+json"


def test_abandoning_a_stream_frees_its_slots(client: httpx.Client, seven: bytes) -> None:
    options = {"max_draws": 100_000, "timeout_ms": 600_000}
    before = draws(client)
    with client.stream(
        "POST", "/predict/stream", content=seven, headers=PNG, params=options
    ) as response:
        next(response.iter_lines())
    idle(client)
    assert draws(client) - before < 100_000 / 2
