"""``pixeldp predict`` and ``evaluate`` about stickers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.bundle import ZOO
from service.cli.main import main

SEVEN = str(ZOO.parents[1] / "examples" / "7.png")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_predict_says_which_threat_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    about = ("predict", SEVEN, "--threat", "sticker", "--target", "20", "--json")
    status, out, _ = run(capsys, *about)
    answer = json.loads(out)
    assert (status, answer["threat"]) == (0, "sticker")
    assert (answer["robust"], answer["target"], answer["confidence"]) == (False, 20, 1)
    assert not {"certified_size", "norm"} & answer.keys()
    status, _, err = run(capsys, *about, "--norm", "l2")
    assert status == 2
    assert "--norm and --allow" in err


def test_an_evaluation_goes_on_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seven = np.asarray(Image.open(SEVEN))[:, :, None]
    images = np.stack([np.roll(seven, shift, axis=1) for shift in range(6)])
    file, kept = tmp_path / "few.npz", tmp_path / "kept.jsonl"
    np.savez(file, images=images, labels=np.full(6, 7), names=np.array(list("0123456789")))
    about = (
        *("evaluate", "mnist-cnn", "--data", str(file), "--threat", "sticker", "--target", "1"),
        *("--provider", "pytorch", "--precision", "float32", "--pass-size", "9", "--json"),
    )
    status, out, _ = run(capsys, *about, "--resume", str(kept))
    whole = json.loads(out)
    assert (status, whole["pictures"], whole["masks"], whole["side"]) == (0, 6, 3, 1)
    assert 0 <= whole["certified"] <= whole["accuracy"] <= 1
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) == 7
    # It was killed while it wrote.
    for left in ("".join(lines[:4]) + lines[4][:5], lines[0], lines[0][:20], ""):
        kept.write_text(left)
        status, out, _ = run(capsys, *about, "--resume", str(kept))
        again = json.loads(out)
        for name in ("accuracy", "certified", "draws"):
            assert again[name] == whole[name]
        assert len(kept.read_text().splitlines()) == 7
    for text, complaint in (
        ("no log", "or of something else: no log; name another file with --resume"),
        ("idx\tlabel\n1", "or of something else: idx label; name another file"),
        (lines[0] + "[7, true, 9]\n", "line 2: is not what an evaluation keeps"),
        (lines[0] + "{}\n" + lines[1], "line 2: is not what an evaluation keeps"),
        (lines[0] + 7 * lines[1], "has 7 answers to 6 pictures"),
    ):
        kept.write_text(text)
        status, _, err = run(capsys, *about, "--resume", str(kept))
        assert (status, err.count("\n")) == (1, 1)
        assert complaint in err
        assert kept.read_text() == text
    kept.write_text("".join(lines))
    np.savez(file, images=images[::-1], labels=np.full(6, 7), names=np.array(list("0123456789")))
    status, _, err = run(capsys, *about, "--resume", str(kept))
    assert status == 1
    assert "is of another evaluation" in err, "these are other pictures"
    status, _, err = run(capsys, *about, "--masks", "2", "--resume", str(kept))
    assert status != 0
    assert "is of another evaluation" in err
    status, _, err = run(capsys, *about, "--norm", "l2")
    assert "--norm is not for --threat sticker" in err
