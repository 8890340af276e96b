"""Certification logs: as the field's own code reads and writes them."""

import re
from pathlib import Path

import numpy as np
import pytest

from models.evaluation.logs import Log, compare, read_log, write_log
from models.evaluation.plots import plot_compared

# The first lines of the log of Cohen et al. for a ResNet-110 on CIFAR-10, σ = 0.12.
COHEN = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t-1\t0.0\t0\t0:00:13.736080
20\t7\t7\t0.0734\t1\t0:00:13.771528
40\t4\t4\t0.405\t1\t0:00:13.907949
60\t7\t7\t0.457\t1\t0:00:13.988746
"""


def log(text: str, folder: Path, name: str = "log") -> Log:
    file = folder / name
    file.write_bytes(text.encode())
    return read_log(file)


def field(file: Path, radius: float) -> float:
    """``ApproximateAccuracy.at_radius`` of the code of Cohen et al., without pandas."""
    columns = file.read_text().splitlines()[0].split("\t")
    rows = np.loadtxt(file, delimiter="\t", skiprows=1, usecols=range(5), ndmin=2)
    correct, radii = rows[:, columns.index("correct")] == 1, rows[:, columns.index("radius")]
    return float((correct & (radii >= radius)).mean())


def test_the_fields_code_reads_what_is_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    indices, labels = np.arange(200) * 10, rng.integers(0, 10, 200)
    leaders = np.where(rng.random(200) < 0.8, labels, (labels + 1) % 10)
    sizes = np.maximum(rng.normal(0.4, 0.4, 200), 0)
    file = tmp_path / "log.tsv"
    write_log(file, indices, labels, leaders, sizes, rng.random(200) * 100)
    lines = file.read_text().splitlines()
    assert lines[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    for line, size, leader, label in zip(lines[1:], sizes, leaders, labels, strict=True):
        _, stated, predict, radius, correct, time = line.split("\t")
        assert re.fullmatch(r"0:0[01]:\d\d(\.\d{6})?", time)
        assert size * (1 - 1e-5) <= float(radius) <= size
        assert int(predict) == (leader if size > 0 else -1)
        assert (int(stated), int(correct)) == (label, size > 0 and leader == label)
    read = read_log(file)
    for radius in (0, 0.1, 0.5, 1.2):
        assert field(file, radius) == read.reached(radius).mean()
        right = (leaders == labels) & (sizes > 0) & (sizes >= radius)
        assert field(file, radius) == right.mean()


def test_a_log_of_cohens_code(tmp_path: Path) -> None:
    read = log(COHEN, tmp_path)
    assert read.indices.tolist() == [0, 20, 40, 60]
    assert read.radii.tolist() == [0.0, 0.0734, 0.405, 0.457]
    [figures] = compare([read], [0, 0.25, 0.45])
    assert [at.accuracy for at in figures.certified] == [0.75, 0.5, 0.25]
    assert figures.certified[0].accuracy_interval == pytest.approx((0.1941, 0.9937), abs=1e-4)
    assert figures.mean_radius == pytest.approx((0.0734 + 0.405 + 0.457) / 4)


def test_forms_that_other_programs_write(tmp_path: Path) -> None:
    wanted = log(COHEN, tmp_path)
    rows = [line.split("\t") for line in COHEN.splitlines()]
    # Codes that choose σ for each picture, or keep what the radius follows from, have their columns
    # before the time.
    head = [*rows[0][:5], "best_sigma", "pABar", "right", "time"]
    between = [head, *([*row[:5], "0.25", "0.998", "1", row[5]] for row in rows[1:])]
    forms = {
        "windows": "\ufeff" + COHEN.replace("\n", "\r\n"),
        "no time": "".join("\t".join(row[:5]) + "\n" for row in rows),
        "other order": "".join("\t".join(reversed(row)) + "\n" for row in rows),
        "more columns": "".join("\t".join([*row, "pA"]) + "\n" for row in rows),
        "columns before time": "".join("\t".join(row) + "\n" for row in between),
        "unsorted": "".join("\t".join(row) + "\n" for row in [rows[0], *rows[:0:-1]]),
        "an empty line": COHEN + "\n",
        "exponents": COHEN.replace("0.405", "4.05e-01"),
    }
    for name, text in forms.items():
        read = log(text, tmp_path, name)
        for member in ("indices", "labels", "radii", "right"):
            assert getattr(read, member).tolist() == getattr(wanted, member).tolist(), name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "its first line lacks idx, label, predict, radius, correct"),
        ("idx,label,predict,radius,correct\n", "separated by tabs"),
        ("idx\tlabel\tpredict\tradius\tcorrect\n", "has no pictures"),
        (COHEN + "80\t1\t1\t0.5", "line 6: expected a number in each column"),
        (COHEN + "80\t1\t1\tx\t1\t0\n", "line 6: expected a number in each column"),
        (COHEN + "80\t1\t1\t0.5\t2\t0\n", "line 6: expected a number in each column"),
        (COHEN + "80\t1\t1\tnan\t1\t0\n", "line 6: the radius is nan"),
        (COHEN + "80\t1\t1\tinf\t1\t0\n", "line 6: the radius is inf"),
        (COHEN + "80\t1\t1\t-1\t1\t0\n", "line 6: the radius is -1.0"),
        (COHEN + "80\t1\t2\t0.5\t1\t0\n", "line 6: correct is 1, but predict is 2 and label 1"),
        (COHEN + "60\t7\t7\t0.5\t1\t0\n", "line 6: the picture 60 is there twice"),
    ],
)
def test_malformed_logs_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        log(text, tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        read_log(tmp_path / "a.png")


def made(name: str, indices: range, radii: np.ndarray, labels: np.ndarray) -> Log:
    return Log(name, np.array(indices), labels, radii, radii > 0)


def test_logs_are_paired_where_their_indices_agree() -> None:
    rng = np.random.default_rng(2)
    labels, noise = rng.integers(0, 10, 1000), rng.random(1000)
    first = made("first", range(0, 1000, 2), noise[::2], labels[::2])
    second = made("second", range(0, 1000, 5), noise[::5] + 0.02, labels[::5])
    one, two = compare([first, second], [0.5])
    assert (one.paired, one.differences) == (0, ())
    assert two.paired == 100
    [difference] = two.differences
    both = noise[::10]
    gained = ((both + 0.02 >= 0.5) & (both < 0.5)).sum()
    assert difference.difference == gained / 100
    low, high = difference.difference_interval
    assert low <= difference.difference <= high
    # Shares of separate samples would differ by far more than pairs do.
    share, other = one.certified[0].accuracy_interval, two.certified[0].accuracy_interval
    assert high - low < (share[1] - share[0]) + (other[1] - other[0])


def test_intervals_of_differences_hold_as_often_as_stated() -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(300):
        kind = rng.choice(4, 200, p=[0.5, 0.2, 0.08, 0.22])
        radii = (kind % 2 == 0) | (kind == 1), (kind == 0) | (kind == 2)
        logs = [made(str(i), range(200), r + 0.0, np.zeros(200)) for i, r in enumerate(radii)]
        low, high = compare(logs, [0.5])[1].differences[0].difference_interval
        missed += not low <= -0.2 <= high
    assert missed <= 15


def test_logs_of_other_pictures_are_not_paired() -> None:
    labels, radii = np.arange(100) % 10, np.linspace(0, 1, 100)
    first = made("first", range(100), radii, labels)
    for other in (
        made("apart", range(100, 200), radii, labels),
        made("relabelled", range(100), radii, np.where(labels == 3, 4, labels)),
    ):
        figures = compare([first, other])[1]
        assert (figures.paired, figures.differences) == (0, ())
        assert [at.radius for at in figures.certified] == [0, 0.25, 0.5, 0.75, 1]


def test_a_plot_names_every_log(tmp_path: Path) -> None:
    labels = np.arange(50) % 10
    logs = [
        made(f"log {number}", range(50), np.linspace(0, number, 50), labels) for number in range(9)
    ]
    files = plot_compared(logs, {}, tmp_path / "plots")
    assert [file.name for file in files] == ["compared.png", "compared.svg"]
    drawn = files[1].read_text()
    assert all(f"log {number}: certified accuracy, 50 pictures" in drawn for number in range(9))
    before = drawn
    plot_compared(logs, {}, tmp_path / "plots")
    assert files[1].read_text() == before
