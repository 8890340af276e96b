"""A bulk certification with a worker of its own; ``tests/chaos/test_bulk.py`` kills it."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.bulk.job import Asked, Row, open_job, read_columns
from models.bulk.sources import open_source
from models.bundle import ZOO, read_bundle
from models.certification.question import Question
from models.evaluation.certified import read_evaluation
from models.evaluation.logs import read_log
from models.verification import verify
from service.bulk.answerer import CannotStartError, local_answerer
from service.bulk.certify import BulkCertifier, Writer, certify_missing
from service.catalogue import Served
from service.settings import Settings
from tests.names import ROOT

SEVEN = ROOT / "examples" / "7.png"
# Pictures without a right label, and whether they have no answer.
SINGLE = {"broken.png": True, "large.png": False, "small.png": False}


def settings(**more: object) -> Settings:
    given = {"devices": "cpu", "provider": "pytorch", "precision": "float32", "pass_size": 64}
    return Settings(models=[ZOO / "mnist-cnn"], **{**given, "compile": False, **more})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "7").mkdir(parents=True)
    for number in range(3):
        (folder / "7" / f"{number}.png").write_bytes(SEVEN.read_bytes())
    (folder / "broken.png").write_bytes(SEVEN.read_bytes()[:100])
    Image.fromarray(np.zeros((56, 56, 3), np.uint8)).save(folder / "large.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "small.png")
    return folder


def test_a_folder_is_certified_and_every_answer_verified(pictures: Path, tmp_path: Path) -> None:
    bundle = read_bundle(ZOO / "mnist-cnn")
    source = open_source(str(pictures), bundle.manifest.labels)
    asked = Asked.of(bundle, source, "pictures", Question(0.999, 128, None, "l2"))

    async def certify() -> None:
        own = settings()
        with open_job(tmp_path / "out", asked) as job:
            job.begin(0)  # as a job that was killed at once
        async with local_answerer(own) as answerer:
            with open_job(tmp_path / "out", asked) as job:
                certifier = BulkCertifier(answerer, Served(0, bundle), own.max_pixels)
                await certify_missing(job, source, certifier)

    asyncio.run(certify())
    columns, _ = read_columns(
        tmp_path / "out",
        *("key", "right", "problem", "label", "certified_size", "lower", "draws", "answer"),
    )
    assert columns["key"] == [*(f"7/{number}.png" for number in range(3)), *sorted(SINGLE)]
    assert columns["right"] == [7, 7, 7, None, None, None]
    assert [problem is not None for problem in columns["problem"]] == [
        *(False, False, False),
        *(SINGLE[key] for key in sorted(SINGLE)),
    ]
    for place, text in enumerate(columns["answer"]):
        if text is None:
            continue
        answer = json.loads(text)
        assert verify(answer) == []
        assert answer["evidence"]["restarts"] == 1
        assert answer["label"]["index"] == columns["label"][place]
        assert answer["certified_size"] == columns["certified_size"][place]
        assert answer["certificate"]["lower"] == columns["lower"][place]
        assert answer["draws"] == columns["draws"][place] == 128
        assert answer["model"]["digest"] == asked.digest
    assert columns["label"][:3] == [7, 7, 7]
    assert min(columns["certified_size"][:3]) > 0
    check_other_certificates(tmp_path / "out", tmp_path / "log.tsv")


def check_other_certificates(folder: Path, log: Path) -> None:
    """What the same bounds certify by others; all three known pictures are alike."""
    columns, _ = read_columns(folder, "answer", "certified_size")
    answers = [json.loads(text) for text in columns["answer"][:3]]
    bounds = [answer["certificate"] for answer in answers]
    papers = [bound["paper"]["size"] for bound in bounds]
    pa = np.array([[bound["lower"]] for bound in bounds])
    pb = np.minimum([[bound["upper"]] for bound in bounds], 1 - pa)
    orders = 1 + np.geomspace(1e-3, 100, 20_001)
    means = ((pa ** (1 - orders) + pb ** (1 - orders)) / 2) ** (1 / (1 - orders))
    gaps = -2 / orders * np.log(1 - pa - pb + 2 * means)
    li = answers[0]["noise"]["scale"] * np.sqrt(gaps.max(axis=1))
    for certificate, expected in (
        ("gaussian", columns["certified_size"][:3]),
        ("pixeldp-gaussian", papers),
        ("renyi", li),
    ):
        figures = read_evaluation(folder, (0.1,), log, certificate)
        assert figures.certificate == certificate
        found = read_log(log).radii
        assert (found > 0).all()
        assert (found <= np.array(expected)).all()
        assert found == pytest.approx(expected, rel=2e-3)
    with pytest.raises(ValueError, match="laplace is no certificate of gaussian noise here"):
        read_evaluation(folder, certificate="laplace")


def test_of_two_rows_of_a_picture_the_first_counts(tmp_path: Path) -> None:
    first, second = (Row(0, "0", None, problem=said) for said in ("first", "second"))
    source = open_source("digits", read_bundle(ZOO / "mnist-cnn").manifest.labels)
    asked = Asked.of(
        read_bundle(ZOO / "mnist-cnn"), source, "digits", Question(0.999, 128, None, "l2")
    )
    with open_job(tmp_path, asked) as job:
        writer = Writer(job)
        for rows in ([first, second], [second]):
            writer.add(rows)
            writer.write()
            writer.add(rows)
            writer.write()
    assert read_columns(tmp_path, "problem")[0] == {"picture": [0], "problem": ["first"]}


@pytest.mark.slow
def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    own = settings(devices="cuda:7")

    async def start() -> None:
        async with local_answerer(own):
            pass

    with pytest.raises(CannotStartError, match="cuda"):
        asyncio.run(start())
