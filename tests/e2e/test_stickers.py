"""Certificates against stickers, over HTTP: answers, headers, streams, and what is refused."""

import io
import json
from typing import Any

import httpx
import numpy as np
from PIL import Image

from models.certification.names import NORMS
from models.verification import verify
from tools import second_verifier

SIDE = 2


def ask(client: httpx.Client, content: bytes, **options: Any) -> httpx.Response:
    chosen = {"threat": "sticker", "target": SIDE, **options}
    return client.post("/predict", content=content, params=chosen)


def larger(seven: bytes, factor: int) -> bytes:
    pixels = np.asarray(Image.open(io.BytesIO(seven))).repeat(factor, 0).repeat(factor, 1)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_an_answer_is_about_stickers_alone(client: httpx.Client, seven: bytes) -> None:
    response = ask(client, seven, evidence=True, confidence=0.9)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["threat"] == "sticker"
    assert answer["label"] == answer["sticker"]["label"] == {"index": 7, "name": "7"}
    certified = answer["sticker"]["certified"]
    assert answer["robust"] is certified
    assert (answer["target"], answer["sticker"]["side"], answer["confidence"]) == (SIDE, SIDE, 1)
    assert answer["budget"] == {"asked": 45, "granted": 45, "reachable": True}
    assert answer["stopped"] == ("target_certified" if certified else "target_out_of_reach")
    assert response.headers["Certified-Robust"] == ("true" if certified else "false")
    assert "Certified-Size" not in response.headers
    for name in ("certified_size", "norm", "noise", "attacks"):
        assert name not in answer
    assert not any(f'"{norm}"' in response.text for norm in NORMS)
    assert answer["evidence"]["threat"] == "sticker"
    assert verify(answer) == []
    assert second_verifier.verify(answer) == []


def test_the_side_is_in_pixels_of_the_picture_as_sent(client: httpx.Client, seven: bytes) -> None:
    """In a picture eight times as large, the same sticker reaches 2 or 3 rows instead of 8."""
    widths = []
    for factor in (1, 8):
        response = ask(client, larger(seven, factor), target=8, evidence=True)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert verify(answer) == []
        rows = answer["certificate"]["masks"]["rows"]
        widths.append(max(end - start for start, end in rows))
    assert widths == [14, 11]
    hidden = ask(client, seven, target=28)
    assert hidden.status_code == 422
    assert "hides the whole of a picture of 28x28" in hidden.json()["detail"]
    assert (hidden.json()["option"], hidden.json()["allowed"]) == ("target", "a smaller side")


def test_a_certificate_that_is_required(client: httpx.Client, seven: bytes) -> None:
    """Against a sticker that can hide most of the picture nothing is certified: 406."""
    refused = ask(client, seven, target=20, require="robust")
    assert refused.status_code == 406
    assert refused.json()["sticker"]["certified"] is False


def test_batches_and_streams(client: httpx.Client, seven: bytes) -> None:
    files = [("image", ("7.png", seven, "image/png"))] * 2
    options: dict[str, Any] = {"threat": "sticker", "target": SIDE}
    batch = client.post("/predict/batch", files=files, params=options)
    assert batch.status_code == 200, batch.text
    one, two = batch.json()["predictions"]
    assert one["sticker"] == two["sticker"]
    assert "Certified-Size" not in batch.headers
    together = "true" if one["robust"] else "false"
    assert batch.headers["Certified-Robust"] == together
    stream = client.post("/predict/stream", content=seven, params=options)
    events = [block.split("\n") for block in stream.text.strip().split("\n\n")]
    told = [(name[7:], json.loads(data[6:])) for name, data in events]
    assert told[-1][0] == "answer"
    assert told[-1][1]["sticker"] == one["sticker"]
    for name, look in told[:-1]:
        assert name == "look"
        assert look["threat"] == "sticker"
        assert "certified_size" not in look


def test_what_does_not_go_together_is_refused(client: httpx.Client, seven: bytes) -> None:
    for options, named in (
        ({"target": None}, "target"),
        ({"target": 2.5}, "target"),
        ({"target": 0.5}, "target"),
        ({"norm": "l2"}, "norm"),
        ({"attacks": 4}, "attacks"),
        ({"threat": "patch"}, "threat"),
    ):
        chosen: dict[str, Any] = {"threat": "sticker", "target": SIDE, **options}
        given = {name: value for name, value in chosen.items() if value is not None}
        response = client.post("/predict", content=seven, params=given)
        assert response.status_code == 422, response.text
        assert response.json()["option"] == named


def test_pictures_about_both_threats_share_the_service(client: httpx.Client, seven: bytes) -> None:
    norm = client.post("/predict", content=seven, params={"target": 0.3, "threat": "norm"}).json()
    assert norm["robust"] is True
    assert "sticker" not in norm
    metrics = client.get("/metrics").text
    assert 'stopped="target_out_of_reach"' in metrics or 'stopped="target_certified"' in metrics
