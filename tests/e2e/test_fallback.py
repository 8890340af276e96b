"""Routing by status and headers, and the example of a fallback."""

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.verification import verify
from tests.e2e.conftest import ROOT, Service

RAW = {"Content-Type": "application/octet-stream"}
# Pure noise, in which the shipped model sees an 8 and a 3 about equally often.
_GREY = np.random.default_rng(16).integers(0, 256, 784).astype(np.uint8)
UNDECIDED = b"P5 28 28 255\n" + _GREY.tobytes()


def ask(client: httpx.Client, content: bytes, **options: Any) -> httpx.Response:
    return client.post("/predict", content=content, headers=RAW, params=options)


@pytest.mark.parametrize(
    ("options", "status", "robust"),
    [
        ({"target": 0.5}, 200, "true"),
        ({"target": 0.5, "require": "robust"}, 200, "true"),
        ({"target": 5}, 200, "false"),
        ({"target": 5, "require": "robust"}, 406, "false"),
        ({}, 200, "unknown"),
        ({"require": "robust"}, 200, "unknown"),
    ],
)
def test_status_and_headers_say_what_the_body_says(
    client: httpx.Client, seven: bytes, options: dict[str, Any], status: int, robust: str
) -> None:
    response = ask(client, seven, confidence=0.999, **options)
    assert response.status_code == status
    answer = response.json()
    assert answer["robust"] is {"true": True, "false": False, "unknown": None}[robust]
    assert response.headers["Certified-Robust"] == robust
    size, norm, confidence = response.headers["Certified-Size"].split("; ")
    assert float(size) == answer["certified_size"]
    assert (norm, confidence) == (f"norm={answer['norm']}", "confidence=0.999")


def test_a_set_of_labels_may_be_robust_where_no_label_is(client: httpx.Client) -> None:
    options: dict[str, Any] = {"target": 0.1, "confidence": 0.99, "require": "robust"}
    alone = ask(client, UNDECIDED, **options)
    assert (alone.status_code, alone.json()["robust"]) == (406, False)
    assert alone.json()["certain"]["within_allowed"] is None
    assert alone.headers["Certified-Set"].endswith("; allowed=unknown")
    shares = {score["name"]: score["expected"] for score in alone.json()["scores"]}
    likely = sorted(shares, key=lambda name: -shares[name])[:5]
    both = ask(client, UNDECIDED, allow=",".join(likely), evidence=True, **options)
    answer = both.json()
    assert both.status_code == 200, answer["certain"]
    assert (answer["robust"], answer["stopped"]) == (False, "target_certified")
    assert (both.headers["Certified-Robust"], verify(answer)) == ("false", [])
    names = {label["name"] for label in answer["certain"]["labels"]}
    assert 1 < len(names) <= 5
    assert names <= set(likely)
    indices = sorted(label["index"] for label in answer["certain"]["labels"])
    assert both.headers["Certified-Set"] == f"{','.join(map(str, indices))}; allowed=true"
    # Draws go on to the end of the budget for a set that never lies within the labels allowed.
    other = ask(client, UNDECIDED, allow=likely[0], max_draws=300, **options)
    assert (other.status_code, other.json()["stopped"]) == (406, "max_draws")
    assert other.headers["Certified-Set"].endswith("; allowed=false")


def test_a_robust_label_must_be_allowed(client: httpx.Client, seven: bytes) -> None:
    image = base64.b64encode(seven).decode()
    for allow, status in (("7", 200), ("1, 7", 200), ([1, "7"], 200), ("1,2", 406), ([8], 406)):
        response = client.post(
            "/predict", json={"image": image, "target": 0.3, "allow": allow, "require": "robust"}
        )
        assert (response.status_code, response.json()["robust"]) == (status, True)
        assert response.json()["certain"]["labels"] == [{"index": 7, "name": "7"}]
        allowed = str(status == 200).lower()
        assert response.headers["Certified-Set"] == f"7; allowed={allowed}"
    for options in ({"allow": "7"}, {"allow": "cat", "target": 0.3}, {"allow": "", "target": 0.3}):
        refused = ask(client, seven, **options)
        assert (refused.status_code, refused.json()["option"]) == (422, "allow")
    refused = client.post("/predict", json={"image": image, "target": 0.3, "allow": [[7]]})
    assert (refused.status_code, refused.json()["option"]) == (422, "allow")


def test_the_set_of_a_batch_has_every_label_of_its_sets(client: httpx.Client, seven: bytes) -> None:
    def batch(*pictures: bytes, **options: Any) -> str:
        images = [base64.b64encode(picture).decode() for picture in pictures]
        response = client.post("/predict/batch", json={"images": images, **options})
        return response.headers.get("Certified-Set", "none")

    assert batch(seven, seven, target=0.3) == "7; allowed=unknown"
    assert batch(seven, seven, target=0.3, allow="7") == "7; allowed=true"
    assert batch(seven, b"nothing", target=0.3, allow="7") == "0,1,2,3,4,5,6,7,8,9; allowed=false"
    assert batch(seven, b"nothing", target=0.3) == "0,1,2,3,4,5,6,7,8,9; allowed=unknown"
    assert batch(seven) == "none"


def test_without_a_target_any_size_is_robust_enough(client: httpx.Client, seven: bytes) -> None:
    for content, status in ((seven, 200), (UNDECIDED, 406)):
        response = ask(client, content, confidence=1 - 1e-6, max_draws=200, require="robust")
        assert response.status_code == status
        assert response.json()["robust"] is None
        assert (response.json()["certified_size"] > 0) == (status == 200)
    assert response.headers["Certified-Size"] == "0; norm=l2; confidence=0.999999"


def test_a_batch_is_as_robust_as_the_least_of_it(client: httpx.Client, seven: bytes) -> None:
    def batch(*pictures: bytes, **options: Any) -> httpx.Response:
        images = [base64.b64encode(picture).decode() for picture in pictures]
        return client.post("/predict/batch", json={"images": images, **options})

    both = batch(seven, seven, target=0.5, confidence=0.999)
    assert both.headers["Certified-Robust"] == "true"
    sizes = [answer["certified_size"] for answer in both.json()["predictions"]]
    # Each of two statements fails once in a thousand, so one of them fails twice in a thousand.
    assert both.headers["Certified-Size"] == f"{min(sizes):.12g}; norm=l2; confidence=0.998"
    assert batch(seven, seven).headers["Certified-Robust"] == "unknown"
    assert batch(seven, seven, target=5).headers["Certified-Robust"] == "false"
    for target in ({}, {"target": 0.5}):
        broken = batch(seven, b"nothing", **target)
        assert broken.headers["Certified-Robust"] == "false"
        assert broken.headers["Certified-Size"] == "0; norm=l2; confidence=0.9"
    many = batch(*[seven] * 30, max_draws=128)
    assert many.headers["Certified-Size"].endswith("; confidence=0.0")


def test_errors_claim_nothing(client: httpx.Client) -> None:
    response = ask(client, b"nothing", require="robust")
    assert response.status_code == 400
    assert "Certified-Robust" not in response.headers
    assert "Certified-Size" not in response.headers
    assert "Certified-Set" not in response.headers


def test_a_stream_claims_nothing_in_its_headers(client: httpx.Client, seven: bytes) -> None:
    with client.stream("POST", "/predict/stream", content=seven, headers=RAW) as response:
        assert response.status_code == 200
        assert "Certified-Robust" not in response.headers


def test_the_example_runs(service: Service, tmp_path: Path) -> None:
    undecided = tmp_path / "undecided.pgm"
    undecided.write_bytes(UNDECIDED)

    def run(url: str, *arguments: str) -> str:
        command = [sys.executable, "examples/fallback.py", url, "examples/7.png", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    robust, rest, summary = run(service.address, str(undecided), "--target", "0.5").splitlines()
    assert robust.startswith("examples/7.png: 7, certified at 0.")
    assert rest.startswith(f"{undecided}: for a person, as the prediction ")
    assert summary == "1 of 2 pictures are for a person"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    robust, rest, summary = run(service.address, str(broken)).splitlines()
    assert rest.startswith(f"{broken}: for a person, as not-a-picture: ")
    assert summary == "1 of 2 pictures are for a person"
    gone = run("http://127.0.0.1:9", "--timeout", "0.2")
    assert "for a person, as http://127.0.0.1:9 cannot be reached" in gone
    assert "1 of 1" in gone


def test_the_example_stops_at_a_wrong_option(service: Service) -> None:
    command = [sys.executable, "examples/fallback.py", service.address, "examples/7.png"]
    command += ["--target", "-1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("fallback.py: option-out-of-range: ")
    assert done.stderr.count("\n") == 1
