"""Models, baselines and logs side by side."""

from pathlib import Path

import pytest

from models.bundle import ZOO, read_bundle
from models.data.datasets import DataSet
from models.evaluation.comparison import (
    COLUMNS,
    Compared,
    Comparison,
    is_undefended,
    norm_of,
    put_side_by_side,
    write_table,
)
from models.evaluation.evaluate import Attacks, Running, evaluate
from models.evaluation.kept import Kept
from models.evaluation.logs import read_log
from models.evaluation.plots import plot_compared

RADII, THRESHOLDS = (0.2, 1.0), (0.05, 0.1)
RUNNING = Running(precision="float32", pass_size=96, provider="pytorch")
ATTACKS = Attacks(("pgd", "carlini-wagner"), 12, steps=4, draws=4, thresholds=THRESHOLDS)


@pytest.fixture(scope="module")
def compared(
    bundle: Path, undefended: Path, digits: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> list[Compared]:
    """A model, the network without noise, and the model's log."""
    log = tmp_path_factory.mktemp("logs") / "earlier.tsv"
    part = digits.every(2)
    evaluate(
        read_bundle(bundle), digits, every=2, max_draws=64, radii=RADII, running=RUNNING, log=log
    )
    asked = Comparison(part, 2, "l2", RADII, 64, None, ATTACKS, RUNNING, Kept())
    return [
        asked.measure(read_bundle(bundle), "ours"),
        asked.measure(read_bundle(undefended), "plain"),
        Compared(read_log(log)),
    ]


def test_the_figures_are_those_of_an_evaluation(
    compared: list[Compared], bundle: Path, undefended: Path, digits: DataSet
) -> None:
    ours, plain, earlier = put_side_by_side(compared, RADII, THRESHOLDS)
    wanted = evaluate(
        read_bundle(bundle),
        digits,
        every=2,
        max_draws=64,
        radii=RADII,
        attacks=ATTACKS,
        baseline=undefended,
        running=RUNNING,
    )
    beside = wanted.baseline
    assert beside is not None
    assert ours.attacks == wanted.attacks
    assert plain.attacks == beside.attacks
    assert (ours.accuracy, plain.accuracy) == (wanted.accuracy, beside.accuracy)
    shares = [at.accuracy for at in wanted.certified]
    for one in (ours, earlier):
        assert [at.accuracy for at in one.certified] == shares
    assert [at.difference for at in earlier.differences] == [0, 0]
    assert (earlier.accuracy, earlier.attacks, earlier.attack_differences) == (None, (), ())
    # A baseline has nothing but its accuracy.
    assert not plain.certifies
    assert [at.accuracy for at in plain.certified] == [0, 0]
    assert not any(at.robust for attack in plain.attacks for at in attack.accuracies)
    at_zero = put_side_by_side(compared, (0.0,), ())[1].certified[0]
    assert (at_zero.accuracy, plain.mean_radius) == (plain.accuracy, 0)


def test_accuracies_under_attack_are_paired(compared: list[Compared]) -> None:
    ours, plain, _ = put_side_by_side(compared, RADII, THRESHOLDS)
    assert ours.attack_differences == ()
    assert [one.attack for one in plain.attack_differences] == ["pgd", "carlini-wagner"]
    pairs = iter(zip(compared[1].attacked, compared[0].attacked, strict=True))
    for differences in plain.attack_differences:
        assert [at.radius for at in differences.differences] == [0, *RADII]
        for at in differences.differences:
            theirs, first = next(pairs)
            share = theirs.right.mean() - first.right.mean()
            assert at.difference == pytest.approx(share, abs=1e-9)
            assert at.difference_interval[0] <= at.difference <= at.difference_interval[1]
    # Both are attacked in earnest.
    for one in (ours, plain):
        assert one.attacks[0].accuracies[0].accuracy > one.attacks[0].accuracies[-1].accuracy


def test_the_table_has_every_figure(compared: list[Compared], tmp_path: Path) -> None:
    ours, plain, _ = figures = put_side_by_side(compared, RADII, THRESHOLDS)
    write_table(tmp_path / "table.tsv", figures)
    head, *rows = (line.split("\t") for line in (tmp_path / "table.tsv").read_text().splitlines())
    assert head == list(COLUMNS)
    assert all(len(row) == len(head) for row in rows)
    found = {tuple(row[:5]): row[5:] for row in rows}
    assert len(found) == len(rows)
    # Per model: certified; accuracy; under 2 attacks at 3 sizes; and two shares at each threshold.
    assert len(rows) == 3 * 2 + 2 + 2 * 2 * 3 + 2 * 3 * 2 * 2 + 2 * 2 + 2 * 3
    robust = ours.attacks[1].accuracies[1].robust[0]
    share, _, _, pictures = found["ours", "precision", "carlini-wagner", "0.2", "0.05"]
    assert (float(share), pictures) == (pytest.approx(robust.precision, rel=1e-5), "12")
    share, low, high, _ = found["plain", "attacked difference", "pgd", "1", ""]
    assert float(low) <= float(share) <= float(high)
    assert found["earlier", "certified difference", "", "0.2", ""][0] == "0"
    assert found["plain", "accuracy", "", "0", ""][3] == str(plain.pictures)
    # Nothing is robust, so nothing is precise.
    none = put_side_by_side(compared, RADII, (9.0,))
    write_table(tmp_path / "none.tsv", none)
    assert "ours\tprecision\tpgd\t0.2\t9\t\t\t\t12\n" in (tmp_path / "none.tsv").read_text()


@pytest.mark.slow
def test_the_plots_name_everything(compared: list[Compared], tmp_path: Path) -> None:
    figures = put_side_by_side(compared, RADII, THRESHOLDS)
    attacked = {one.name: one.attacks for one in figures if one.attacks}
    logs = [one.log for one in compared if one.certifies]
    files = plot_compared(logs, attacked, tmp_path, "l2")
    names = ("compared.png", "compared.svg", "under-attack.png", "under-attack.svg")
    assert tuple(file.name for file in files) == names
    sizes, under = files[1].read_text(), files[3].read_text()
    assert "L2 size of the change" in sizes
    assert "plain" not in sizes
    for part in ("ours, certified to 0.05", "ours, certified to 0.1", "plain: accuracy, any"):
        assert part in under


def test_what_certifies_nothing_is_known_by_its_noise(bundle: Path, undefended: Path) -> None:
    shipped = [read_bundle(file.parent) for file in sorted(ZOO.glob("*/model.json"))]
    assert len(shipped) > 5
    assert not any(is_undefended(one.manifest) for one in [*shipped, read_bundle(bundle)])
    plain = read_bundle(undefended)
    assert is_undefended(plain.manifest)
    linf = read_bundle(ZOO / "mnist-linf")
    assert norm_of([plain, linf, *shipped]) == "linf"
    with pytest.raises(ValueError, match="none of these bundles certifies anything; state the --n"):
        norm_of([plain])


def test_pictures_that_do_not_fit_are_refused(bundle: Path, digits: DataSet) -> None:
    other = DataSet(digits.images, digits.labels, tuple("abcdefghij"))
    asked = Comparison(other, 1, "l2", RADII, 64, None, Attacks(), RUNNING, Kept())
    with pytest.raises(ValueError, match="labels"):
        asked.measure(read_bundle(bundle), "ours")
