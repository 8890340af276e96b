import json
import os
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from models.bulk import job as module
from models.bulk.job import (
    STRIDE,
    Asked,
    Job,
    JobError,
    Row,
    claim_job,
    open_job,
    read_columns,
    read_job,
    write_job,
)
from models.evaluation.certified import read_evaluation
from models.evaluation.logs import read_log

ASKED = Asked(
    model="a",
    version="1",
    digest="sha256:0",
    labels=("cat", "dog"),
    dataset="pictures",
    source="abc",
    pictures=1000,
    every=1,
    max_draws=128,
    confidence=0.999,
    target=None,
    norm="l2",
)
COMPUTE = {"device": "cpu", "provider": "pytorch", "precision": "float32", "pass_size": 64}


def row(number: int, right: int | None = 0, label: int = 0, size: float = 0.5) -> Row:
    answer = json.dumps({"compute": COMPUTE})
    found = (label, ASKED.labels[label], size, None, 0.9, 0.1, 128, 0.25, answer)
    return Row(number, str(number), right, None, *found)


def restarts(job: Job, *numbers: int) -> list[int]:
    return [job.begin(number).restarts for number in numbers]


def test_what_is_committed_is_never_missing_again(tmp_path: Path) -> None:
    few = ASKED.model_copy(update={"pictures": 10, "every": 3})
    with open_job(tmp_path / "out", few) as job:
        assert job.missing.tolist() == [0, 3, 6, 9]
        job.commit([row(9), row(3)], 1.5)
    with open_job(tmp_path / "out", few) as job:
        assert job.missing.tolist() == [0, 6]
        job.commit([row(0)], 1.0)
        job.commit([row(6)], 0.5)
    with open_job(tmp_path / "out", few) as job:
        assert job.missing.tolist() == []
    columns, seconds = read_columns(tmp_path / "out", "key", "draws")
    assert columns == {"picture": [0, 3, 6, 9], "key": ["0", "3", "6", "9"], "draws": [128] * 4}
    assert seconds == 3.0


def test_what_may_have_begun_begins_with_the_next_share(tmp_path: Path) -> None:
    with open_job(tmp_path, ASKED) as job:
        assert restarts(job, 0, 1, STRIDE) == [0, 0, 0]  # begun: up to 2 STRIDE
        job.commit([row(1)], 1.0)
    with open_job(tmp_path, ASKED) as job:
        assert restarts(job, 0, 2) == [1, 1]  # begun: up to STRIDE
    with open_job(tmp_path, ASKED) as job:
        assert restarts(job, 0, STRIDE - 1, STRIDE, 2 * STRIDE - 1, 2 * STRIDE) == [2, 2, 1, 1, 0]


def test_what_begins_again_in_the_same_run_has_the_next_share_too(tmp_path: Path) -> None:
    with open_job(tmp_path, ASKED) as job:
        assert restarts(job, STRIDE, 0, 1) == [0, 0, 0]  # begun: up to 2 STRIDE
        assert restarts(job, 1, 0, 2) == [1, 1, 1]  # 2 may have begun, for all the disk knows
        assert restarts(job, 1, 2 * STRIDE) == [2, 0]
    with open_job(tmp_path, ASKED) as job:
        assert restarts(job, 1, STRIDE + 1, 2 * STRIDE) == [3, 2, 1]


def test_a_process_that_writes_is_waited_for(tmp_path: Path) -> None:
    """It may live on after the process that claimed the job was killed."""
    found: list[int] = []

    def write() -> None:
        with claim_job(tmp_path, ASKED), write_job(tmp_path, ASKED) as job:
            found.append(len(job.missing))

    with claim_job(tmp_path, ASKED):
        pass
    with write_job(tmp_path, ASKED) as job:
        thread = Thread(target=write)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        job.commit([row(0)], 1.0)
    thread.join()
    assert found == [ASKED.pictures - 1]


def test_that_pictures_begin_is_on_the_disk_before_they_do(tmp_path: Path) -> None:
    with open_job(tmp_path, ASKED) as job:
        job.begin(0)
        assert json.loads((tmp_path / module.BEGUN).read_bytes()) == [STRIDE]
        job.begin(STRIDE - 1)
        assert json.loads((tmp_path / module.BEGUN).read_bytes()) == [STRIDE]
        job.begin(STRIDE)
        assert json.loads((tmp_path / module.BEGUN).read_bytes()) == [2 * STRIDE]


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "rename")])
def test_a_part_that_was_not_finished_is_as_if_it_had_not_begun(
    owner: object, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing cleans up after a part, so it ends like a killed process; ``tests/chaos`` kills."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with open_job(tmp_path, ASKED) as job:
        job.commit([row(0)], 1.0)
        monkeypatch.setattr(owner, call, end)
        with pytest.raises(KeyboardInterrupt):
            job.commit([row(1)], 1.0)
    monkeypatch.undo()
    assert len(list((tmp_path / module.PARTS).iterdir())) == 2
    with open_job(tmp_path, ASKED) as job:
        assert np.flatnonzero(job.answered).tolist() == [0]
        job.commit([row(1)], 1.0)
        names = sorted(os.listdir(tmp_path / module.PARTS))
    assert names == ["part-000000.parquet", "part-000001.parquet"]


def test_only_one_process_works_in_a_folder(tmp_path: Path) -> None:
    with (
        open_job(tmp_path, ASKED),
        pytest.raises(JobError, match="another process"),
        open_job(tmp_path, ASKED),
    ):
        pass


def test_another_question_needs_another_folder(tmp_path: Path) -> None:
    with open_job(tmp_path / "out", ASKED):
        pass
    other = ASKED.model_copy(update={"max_draws": 256})
    said = "max_draws was 128, and is now 256; name a new folder"
    with pytest.raises(JobError, match=said), open_job(tmp_path / "out", other):
        pass
    assert read_job(tmp_path / "out") == ASKED
    said = r"is not empty and has no job\.json"
    with pytest.raises(JobError, match=said), open_job(tmp_path, ASKED):
        pass
    with pytest.raises(JobError, match="no job of pixeldp certify here"):
        read_job(tmp_path)


def test_figures_are_read_from_the_answers(tmp_path: Path) -> None:
    problem = Row(4, "4", 1, problem="no picture")
    rows = [row(2, right=1), row(0), row(3, right=None), problem, row(1, size=0.0)]
    with open_job(tmp_path / "out", ASKED) as job:
        job.commit(rows, 2.0)
    log = tmp_path / "log.tsv"
    figures = read_evaluation(tmp_path / "out", (0.25, 0.75), log)
    assert (figures.pictures, figures.accuracy, figures.uncertified) == (4, 0.5, 2)
    assert [at.accuracy for at in figures.certified] == [0.25, 0.0]
    assert (figures.draws, figures.seconds, figures.draws_per_second) == (512, 2.0, 256.0)
    assert (figures.device, figures.provider, figures.pass_size) == ("cpu", "pytorch", 64)
    read = read_log(log)
    assert read.indices.tolist() == [0, 1, 2, 4]
    assert read.right.tolist() == [True, False, False, False]
    assert read.radii.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_there_are_no_figures_without_right_labels(tmp_path: Path) -> None:
    with open_job(tmp_path, ASKED) as job:
        with pytest.raises(JobError, match="has no answers yet"):
            read_evaluation(tmp_path)
        job.commit([row(0, right=None)], 1.0)
    with pytest.raises(JobError, match="no picture with a known label"):
        read_evaluation(tmp_path)
