"""``pixeldp evaluate``: the figures of a model on labelled pictures."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.certification.names import Norm
from models.execution import (
    Execution,
    ProviderError,
    obstacle,
    parse_execution,
    ways,
)
from service.cli import measure_options
from service.cli.device_option import DeviceOption
from service.cli.evaluate_family import evaluate_members
from service.cli.evaluate_stickers import check_threat, evaluate_stickers_of
from service.cli.sizes import shown
from service.cli.sticker_options import MASKS, MasksOption, ThreatOption

if TYPE_CHECKING:
    from models.bundle import Bundle, Int8Record, Int8Spec
    from models.data.labelled import DataSet
    from models.evaluation.figures import CertifiedAccuracy, Evaluation, Interval


def _ways(texts: Sequence[str], pass_size: int) -> list[Execution | None]:
    """Read ways of running h; None stands for all of them."""
    try:
        return [None if one == "all" else parse_execution(one, pass_size) for one in texts]
    except ValueError as error:
        raise typer.BadParameter(
            f"--compare-with {' '.join(texts)}: that is no h{error}; expected provider/precision, "
            "with a pass size and true or false for compiled after it if you like, such as "
            "openvino/int8 or pytorch/float32/128/true"
        ) from None


def _others(
    named: Sequence[Execution | None], pass_size: int, device: str | None, int8: bool
) -> list[Execution]:
    """Return the ways to compare, each once; ``int8`` says whether the model has its scales."""
    from models.converted import has_bfloat16
    from models.device import find_device

    found = ways(find_device(device), None, None, int8) if None in named else []
    every = [
        Execution(*way, pass_size, False)
        for way in found
        if way != ("openvino", "bfloat16") or has_bfloat16()
    ]
    return list(dict.fromkeys(way for one in named for way in (every if one is None else [one])))


def evaluate(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle: a folder, or a name of the zoo.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="mnist, svhn, cifar10, cifar100, imagenet, digits, an .npz, or a folder."
        ),
    ] = None,
    certified: Annotated[
        Path | None,
        typer.Option(
            help="In place of a bundle and data: the folder of pixeldp certify, of which only the "
            "figures are computed."
        ),
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(
            help="With --certified: what the answers' bounds certify by another certificate of "
            "the noise's law, such as renyi (Li et al. 2019) or pixeldp-gaussian (the paper's)."
        ),
    ] = None,
    family: Annotated[
        Path | None,
        typer.Option(
            help="In place of a bundle: the members of this family (.family.json, or a name "
            "of the zoo), and the certified accuracy of the member that answers each size."
        ),
    ] = None,
    root: measure_options.Root = None,
    split: measure_options.SplitOption = "test",
    download: measure_options.Download = False,
    every: measure_options.Every = 1,
    draws: measure_options.Draws = 1000,
    confidence: measure_options.Confidence = None,
    radii: Annotated[
        str | None,
        typer.Option(help="Sizes to report, separated by commas; by default chosen by norm."),
    ] = None,
    norm: Annotated[
        Norm | None, typer.Option(help="The norm of sizes; by default the model's own.")
    ] = None,
    threat: ThreatOption = "norm",
    target: Annotated[
        int | None, typer.Option(min=1, help="The side of stickers, in pixels of the pictures.")
    ] = None,
    masks: MasksOption = MASKS,
    resume: measure_options.Resume = None,
    attack: measure_options.AttackOption = None,
    attack_pictures: measure_options.AttackPictures = 100,
    attack_steps: measure_options.AttackSteps = 20,
    attack_draws: measure_options.AttackDraws = 16,
    thresholds: measure_options.Thresholds = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="A bundle to use without noise, from train --undefended: a folder, or a name of "
            "the zoo."
        ),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for plots as PNG and SVG (needs matplotlib).")
    ] = None,
    tsv: Annotated[
        Path | None,
        typer.Option(
            help="Write a certification log: idx, label, predict, radius, correct and time of each "
            "picture, which compare reads."
        ),
    ] = None,
    device: DeviceOption = None,
    precision: measure_options.Precision = None,
    provider: measure_options.ProviderOption = None,
    int8: Annotated[
        bool | None,
        typer.Option(
            "--int8/--no-int8",
            help="Certify up to 1,000 of the pictures in float32 and in int8, too; by default with "
            "--write, if OpenVINO is installed.",
        ),
    ] = None,
    pass_size: measure_options.PassSize = 256,
    compare_with: Annotated[
        list[str] | None,
        typer.Option(
            help="Run the network in another way, too, and count how often the answers disagree: "
            "provider/precision[/pass size[/compiled]], such as openvino/int8 or "
            "pytorch/float32/128/true; all for every provider and number format here. Repeatable."
        ),
    ] = None,
    threads: measure_options.Threads = None,
    seed: measure_options.Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write the figures into the bundle.")
    ] = False,
) -> None:
    """Measure a bundle's accuracy and certified accuracy, and its accuracy under attack.

    With the same seed, provider, precision, pass size and threads, the figures are the same again
    on the same machine.
    """
    if certified is not None:
        about = (certified, measure_options.read_sizes(radii), tsv, certificate)
        _read_certified(about, (bundle, family, data), plots, json)
        return
    data = _given(data, certificate)
    alone = {"attack": attack, "baseline": baseline, "tsv": tsv, "int8": int8, "write": write}
    _check_subject(bundle, family, {**alone, "compare-with": compare_with})
    others = alone | {"family": family, "norm": norm, "radii": radii, "plots": plots}
    folder = _folder(bundle, family, write)
    measure_options.use_threads(threads)
    named_data = f"{Path(data).name} ({split})"
    read_pictures = partial(measure_options.read_pictures, data, root, split, download)
    if check_threat(threat, {**others, "compare-with": compare_with}, target):
        way, which = (device, precision, pass_size, seed, provider), (named_data, every)
        evaluate_stickers_of(folder, read_pictures, (target, masks), way, which, resume, json)
        return
    sizes, names = measure_options.read_sizes(radii), measure_options.read_attacks(attack)
    named = _ways(compare_with or (), pass_size)

    from models.asking import ask
    from models.bundle import locate, read_bundle
    from models.evaluation.asked import USUAL, Attacks, check_data

    measure_options.check_provider(device, provider, precision, int8)
    attacks = (names, attack_pictures, attack_steps, attack_draws)
    asked = Attacks(*attacks, measure_options.read_sizes(thresholds))
    measure_options.check_sizes(sizes, asked.thresholds, names)
    _check_outputs(plots, tsv)
    read = read_bundle(folder)
    beside = None if baseline is None else read_bundle(locate(baseline))
    ask(read.manifest, confidence, draws, norm=norm, usual=USUAL)
    pictures = read_pictures()
    check_data(read.manifest, pictures, asked, beside)

    from models.device import find_device
    from models.evaluation.evaluate import Running, evaluate
    from models.evaluation.kept import Kept

    options: dict[str, Any] = {
        "every": every,
        "max_draws": draws,
        "confidence": confidence,
        "radii": sizes,
        "norm": norm,
        "dataset": named_data,
        "running": Running(find_device(device), precision, pass_size, seed, provider),
        "kept": Kept(resume),
    }
    with measure_options.refused():
        if family is not None:
            evaluate_members(locate(family), pictures, plots=plots, json=json, **options)
            return
        evaluation = evaluate(
            read,
            pictures,
            **options,
            attacks=asked,
            baseline=None if beside is None else beside.path,
            others=_others(named, pass_size, device, read.manifest.int8 is not None),
            log=tsv,
        )
        found = _compare_int8(read, pictures, evaluation, int8, write)
    print_evaluation(_recorded(read, evaluation, found, write), plots, json)


def _recorded(
    bundle: "Bundle", evaluation: "Evaluation", int8: "Int8Spec | None", write: bool
) -> "Evaluation":
    """Add what was found of int8 to the figures, and write them into the bundle if asked to."""
    from models.evaluation.evaluate import record

    if int8 is not None:
        evaluation = evaluation.model_copy(update={"int8": int8.record})
    if write:
        record(bundle.path, evaluation, int8)
    return evaluation


def print_evaluation(evaluation: "Evaluation", plots: Path | None, json: bool) -> None:
    """Print the figures as a table or as JSON, and draw them into a folder, if there is one."""
    from models.evaluation.plots import plot

    files = plot(evaluation, plots) if plots is not None else []
    typer.echo(evaluation.model_dump_json(indent=2) if json else _table(evaluation))
    for file in files:
        typer.echo(f"drawn: {file}", err=True)


def _read_certified(
    about: tuple[Path, tuple[float, ...], Path | None, str | None],
    others: Sequence[object],
    plots: Path | None,
    json: bool,
) -> None:
    """Print the figures of a bulk certification; ``about`` is what ``read_evaluation`` takes."""
    from models.evaluation.certified import read_evaluation

    if any(other is not None for other in others):
        raise typer.BadParameter("--certified stands alone: omit the bundle, --family and --data")
    print_evaluation(read_evaluation(*about), plots, json)


def _given(data: str | None, certificate: str | None) -> str:
    """Return the data set, which there must be if figures are not only read."""
    if certificate is not None:
        raise typer.BadParameter("--certificate needs --certified, with a folder of answers")
    if data is None:
        raise typer.BadParameter("Missing option '--data', or --certified with a folder")
    return data


def _check_subject(bundle: Path | None, family: Path | None, alone: Mapping[str, object]) -> None:
    """Refuse neither or both of them, and for a family options of a single bundle."""
    if (bundle is None) == (family is None):
        raise typer.BadParameter("expected either a bundle, or --family with a family's file")
    for name, value in alone.items():
        if family is not None and value:
            raise typer.BadParameter(f"--{name} is for a single bundle; omit it or --family")


def _check_outputs(plots: Path | None, tsv: Path | None) -> None:
    from models.evaluation.asked import check_matplotlib

    if plots is not None:
        check_matplotlib()
    if tsv is not None and tsv.is_dir():
        raise ValueError(f"--tsv: {tsv} is a folder; expected a file")


def _folder(bundle: Path | None, family: Path | None, write: bool) -> Path:
    """Return the bundle's folder, or that of the family's first member."""
    from models.bundle import locate
    from models.family import is_family, read_family

    if family is not None:
        return read_family(locate(family)).folders[0]
    assert bundle is not None
    folder = locate(bundle)
    if is_family(folder):
        raise typer.BadParameter(f"{bundle} is a family; give it as --family {bundle}")
    if write and folder != bundle:
        raise ValueError(
            f"--write: {bundle} is a bundle that comes with the project; copy it first, and "
            f"evaluate the copy: cp -r {folder} COPY"
        )
    return folder


def _compare_int8(
    bundle: "Bundle",
    pictures: "DataSet",
    evaluation: "Evaluation",
    asked: bool | None,
    write: bool,
) -> "Int8Spec | None":
    """Measure int8 beside float32, if it is ``asked`` for, or where figures are kept if possible.

    Raises:
        ProviderError: it cannot be measured.
    """
    from models.certification.question import Question
    from models.evaluation.pairs import compare_int8
    from models.loaded import load_model
    from models.trial import RowsError

    wanted = write if asked is None else asked
    if not wanted or obstacle("cpu", "openvino", "int8"):
        return None
    try:
        return compare_int8(
            load_model(bundle),
            pictures.every(evaluation.every),
            Question(evaluation.confidence, evaluation.max_draws, None, evaluation.norm),
            tuple(at.radius for at in evaluation.certified),
            dataset=evaluation.dataset,
            pass_size=evaluation.pass_size,
            seed=evaluation.seed,
        )
    except (ProviderError, RowsError) as error:
        if asked:
            raise
        typer.echo(f"pixeldp: nothing is known of int8: {error}", err=True)
        return None


def _table(evaluation: "Evaluation") -> str:
    which = "all" if evaluation.every == 1 else f"one in {evaluation.every}"
    lines = [
        f"{evaluation.model} {evaluation.version} on {evaluation.dataset}: "
        f"{evaluation.pictures:,} pictures ({which}), {evaluation.max_draws:,} draws each, "
        f"confidence {evaluation.confidence:g}"
        + (f", by {evaluation.certificate}" if evaluation.certificate else ""),
        "",
        f"{'':<26}{'share':>7}  {'95 % interval':<15}{'precision':>10}{'recall':>9}",
        f"{'accuracy':<26}{_share(evaluation.accuracy, evaluation.accuracy_interval)}",
        *(_certified(at, evaluation.norm) for at in evaluation.certified),
        f"{'mean certified size':<26}{evaluation.mean_size:>7.3f}",
        f"{'nothing certified':<26}{evaluation.uncertified:>7,} pictures, counted as failures",
    ]
    largest = evaluation.largest_size
    if largest is not None and any(at.radius > largest for at in evaluation.certified):
        lines.append(
            f"{evaluation.max_draws:,} draws certify at most {largest:.4g}, if "
            "all agree: for larger sizes raise --draws, or train with a larger --scale"
        )
    if evaluation.int8:
        lines += _int8(evaluation.int8)
    if evaluation.disagreements:
        lines += _disagreements(evaluation)
    if evaluation.baseline:
        beside = evaluation.baseline
        what = f"accuracy of {beside.model}"
        lines.append(f"{what:<26}{_share(beside.accuracy, beside.accuracy_interval)}")
    lines += [*_attacked(evaluation), *_robust_attacked(evaluation)]
    lines += [
        "",
        f"{evaluation.draws:,} draws in {evaluation.seconds:.1f} s: "
        f"{evaluation.draws_per_second:,.0f} a second ({evaluation.device}, "
        f"{evaluation.provider}, {evaluation.precision}, threads: {evaluation.threads})",
    ]
    return "\n".join(lines)


def _share(share: float, interval: "Interval") -> str:
    return f"{share:>7.1%}  {interval[0]:.1%} to {interval[1]:.1%}"


def _certified(at: "CertifiedAccuracy", norm: str) -> str:
    precision, recall = (
        "-" if share is None else f"{share:.1%}" for share in (at.precision, at.recall)
    )
    share = _share(at.accuracy, at.accuracy_interval)
    what = f"certified at {norm} >= {shown(at.radius)}"
    return f"{what:<26}{share:<24}{precision:>10}{recall:>9}"


def _int8(record: "Int8Record") -> list[str]:
    lines = [
        "",
        f"in int8 beside float32, on the same {record.pictures:,} pictures: "
        f"{record.labels_differ:.1%} have another label",
        f"{'':<26}{'float32':>8}{'int8':>8}",
    ]
    for at in record.certified:
        what = f"certified at {record.norm} >= {shown(at.radius)}"
        lines.append(f"{what:<26}{at.float32:>8.1%}{at.int8:>8.1%}")
    return lines


def _disagreements(evaluation: "Evaluation") -> list[str]:
    lines = ["", f"how often two h's disagree on the {evaluation.pictures:,} pictures"]
    for pair in evaluation.disagreements:
        noise = "the same noise" if pair.same_noise else "other noise"
        which = "itself" if pair.other == pair.one else pair.other
        share = _share(pair.labels, pair.labels_interval)
        lines += [f"{pair.one} and {which}, {noise}", f"{'  labels':<26}{share}"]
        for at in pair.robust:
            what = f"  robust at {evaluation.norm} >= {shown(at.radius)}"
            lines.append(f"{what:<26}{_share(at.share, at.share_interval)}")
    return lines


def _attacked(evaluation: "Evaluation") -> list[str]:
    rows = [(evaluation.model, attack) for attack in evaluation.attacks]
    if evaluation.baseline:
        rows += [(evaluation.baseline.model, attack) for attack in evaluation.baseline.attacks]
    if not rows:
        return []
    first = rows[0][1]
    names = [f"{model}, {attack.attack}" for model, attack in rows]
    width = max(map(len, names)) + 2
    radii = (f"{shown(at.radius):>7}" for at in first.accuracies)
    lines = [
        "",
        f"accuracy on {first.pictures:,} pictures, attacked in {first.steps} steps up to "
        f"{evaluation.norm} size",
        f"{'':<{width}}{' '.join(radii)}",
    ]
    for name, (_, attack) in zip(names, rows, strict=True):
        shares = (f"{at.accuracy:>7.1%}" for at in attack.accuracies)
        lines.append(f"{name:<{width}}{' '.join(shares)}")
    return lines


def _robust_attacked(evaluation: "Evaluation") -> list[str]:
    """Show precision and recall under attack, for each threshold a pair of lines."""
    if not evaluation.attacks or not evaluation.attacks[0].accuracies[0].robust:
        return []
    radii = (f"{shown(at.radius):>7}" for at in evaluation.attacks[0].accuracies)
    lines = ["", f"{'robust predictions, attacked up to':<50}{' '.join(radii)}"]
    for attack in evaluation.attacks:
        for place, at in enumerate(attack.accuracies[0].robust):
            robust = [attacked.robust[place] for attacked in attack.accuracies]
            what = f"{attack.attack}, certified at {evaluation.norm} >= {shown(at.radius)}: "
            for name in ("precision", "recall"):
                shares = (getattr(one, name) for one in robust)
                cells = ("-" if share is None else f"{share:.1%}" for share in shares)
                lines.append(f"{what + name:<50}{' '.join(f'{cell:>7}' for cell in cells)}")
    return lines
