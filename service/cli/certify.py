"""``pixeldp certify``: the certificates of a whole data set, in files."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from models.certification.names import Norm
from models.execution import Format, Provider
from service.cli.progress import cleaning_up

if TYPE_CHECKING:
    from models.bulk.job import Asked
    from models.bulk.sources import Source
    from models.bundle import Bundle
    from models.data.named import Split
    from service.settings import Settings

PROBLEMS = 1


def certify(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures, an .npz file, .tar files of WebDataset or .parquet files "
            "or a folder of them, or mnist, svhn, cifar10, cifar100, imagenet, digits."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(help="The folder for the answers; the same command goes on with it."),
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="The bundle: a folder, or a name of the zoo; by default mnist-cnn."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="The folder of a named data set.")] = None,
    split: Annotated[
        Literal["test", "train"], typer.Option(help="The part of a named data set.")
    ] = "test",
    every: Annotated[int, typer.Option(min=1, help="Certify every N-th picture only.")] = 1,
    draws: Annotated[int, typer.Option(min=64, help="The draw budget of each picture.")] = 1000,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="The confidence of each answer; by default 0.999, and 1 for split noise."
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="The size that you need: a picture is done when it is certified."),
    ] = None,
    norm: Annotated[
        Norm | None, typer.Option(help="The norm of sizes; by default the model's own.")
    ] = None,
    devices: Annotated[
        str, typer.Option(help="auto, or a device for each worker: cpu,cpu or cuda:0,cuda:1.")
    ] = "auto",
    precision: Annotated[
        Format | None, typer.Option(help="The number format; by default the fastest here.")
    ] = None,
    provider: Annotated[
        Provider | None, typer.Option(help="What runs the network; by default the fastest here.")
    ] = None,
    pass_size: Annotated[
        int | None, typer.Option(min=1, help="The number of draws in a pass; by default measured.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Whether to use compiled networks.")
    ] = True,
    on_ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Certify on the cluster of Ray that this machine belongs to or RAY_ADDRESS names, "
            "with an engine for each of its GPUs, or else of its processors (pixeldp[ray]).",
        ),
    ] = False,
) -> int:
    """Certify every picture of a data set, and write the answers with their evidence as Parquet.

    The command may be killed at any time: the same command goes on, answers no picture twice and
    leaves none out. If some pictures have no answer, the exit status is 1, and their rows say why.
    Where right labels are known, OUTPUT also gets a summary, a certification log, and plots if
    matplotlib is installed; evaluate --certified reads it.
    """
    from models.asking import ask
    from models.bulk.job import Asked, claim_job
    from models.bulk.parquet import check_pyarrow
    from models.bulk.sources import open_source
    from models.bundle import ZOO, read_bundle
    from models.evaluation.asked import USUAL

    check_pyarrow()
    if on_ray:
        _check_ray(devices)
    settings = _settings(model or ZOO / "mnist-cnn", devices, precision, provider, pass_size)
    settings = settings.model_copy(update={"compile": compiled and settings.compile})
    bundle = read_bundle(settings.models[0])
    manifest = bundle.manifest
    question = ask(manifest, confidence, draws, target, norm, usual=USUAL)
    source = open_source(dataset, manifest.labels, root, split)
    asked = Asked.of(bundle, source, Path(dataset).name, question, every)
    with claim_job(output, asked):
        with cleaning_up():
            if on_ray:
                _run_on_ray(output, asked, settings, dataset, root, split)
            else:
                _run(output, asked, source, settings, bundle)
        problems = _summarise(output, asked)
    return PROBLEMS if problems else 0


def _check_ray(devices: str) -> None:
    """Refuse what does not go with a cluster of Ray."""
    from importlib.util import find_spec

    if devices != "auto":
        raise typer.BadParameter("--ray: Ray gives the devices; omit --devices")
    if find_spec("ray") is None:
        raise ValueError(
            f"--ray needs Ray, which is not installed: {sys.executable} -m pip install "
            "'pixeldp[ray]'"
        )


def _settings(
    model: Path,
    devices: str,
    precision: Format | None,
    provider: Provider | None,
    pass_size: int | None,
) -> "Settings":
    from pydantic import ValidationError

    from service.settings import Settings, explain

    given = {
        "models": [model],
        "devices": devices,
        "precision": precision,
        "provider": provider,
        "pass_size": pass_size,
    }
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # checked by pydantic
    except ValidationError as error:
        raise ValueError(explain(error, set(given))) from None


class _Progress:
    """A bar with pictures and draws per second and the estimated end.

    Args:
        total: the pictures of the job.
        missing: those that lack answers; says so.
    """

    def __init__(self, total: int, missing: int) -> None:
        from tqdm import tqdm

        typer.echo(
            f"pixeldp: {missing:,} of {total:,} pictures to certify; starting workers", err=True
        )
        self.bar = tqdm(
            total=total,
            initial=total - missing,
            desc="certificates",
            unit="picture",
            disable=not sys.stderr.isatty(),
        )
        self._drawn = 0

    def tell(self, pictures: int, draws: int) -> None:
        """Add pictures that are answered, and their draws."""
        self._drawn += draws
        seconds = self.bar.format_dict["elapsed"]
        self.bar.set_postfix_str(f"{self._drawn / max(seconds, 1e-3):,.0f} draws/s", refresh=False)
        self.bar.update(pictures)


def _run(
    output: Path, asked: "Asked", source: "Source", settings: "Settings", bundle: "Bundle"
) -> None:
    """Certify what is missing on this machine's devices."""
    from models.bulk.job import write_job
    from service import logs
    from service.bulk.answerer import local_answerer
    from service.bulk.certify import BulkCertifier, certify_missing
    from service.catalogue import Served

    logs.configure("console", "warning")
    with write_job(output, asked) as job:
        if not len(job.missing):
            return
        progress = _Progress(len(asked.numbers), len(job.missing))

        async def run() -> None:
            async with local_answerer(settings) as answerer:
                progress.bar.unpause()
                certifier = BulkCertifier(answerer, Served(0, bundle), settings.max_pixels)
                await certify_missing(
                    job, source, certifier, lambda row: progress.tell(1, row.draws or 0)
                )

        with progress.bar:
            asyncio.run(run())


def _run_on_ray(
    output: Path,
    asked: "Asked",
    settings: "Settings",
    dataset: str,
    root: Path | None,
    split: "Split",
) -> None:
    """Certify what is missing on a cluster."""
    from service.bulk.cluster import Order, open_cluster

    # Relative paths would mean others in Ray's processes.
    dataset = str(Path(dataset).resolve()) if Path(dataset).exists() else dataset
    root = None if root is None else root.resolve()
    settings = settings.model_copy(update={"models": [settings.models[0].resolve()]})
    order = Order(settings, asked, dataset, root, split)
    with open_cluster(output.resolve(), order) as cluster:
        if not len(cluster.missing):
            return
        progress = _Progress(len(asked.numbers), len(cluster.missing))
        with progress.bar:
            for pictures, draws in cluster.certify():
                progress.tell(pictures, draws)


def _summarise(output: Path, asked: "Asked") -> int:
    """Write and print what follows from the answers; return how many pictures have none."""
    from importlib.util import find_spec

    from models.bulk.job import read_columns
    from models.evaluation.certified import read_evaluation
    from models.files import write_whole
    from service.cli.evaluate import print_evaluation

    columns, _ = read_columns(output, "right", "problem")
    problems = [
        (number, said)
        for number, said in zip(columns["picture"], columns["problem"], strict=True)
        if said is not None
    ]
    for number, said in problems[:5]:
        typer.echo(f"pixeldp: picture {number}: {said}", err=True)
    answered = len(columns["picture"]) - len(problems)
    typer.echo(f"{answered:,} pictures answered, {len(problems):,} without an answer: {output}")
    if answered and any(right is not None for right in columns["right"]):
        evaluation = read_evaluation(output, log=output / "log.tsv")
        content = evaluation.model_dump_json(indent=2).encode()
        write_whole(output / "summary.json", content)
        print_evaluation(evaluation, output if find_spec("matplotlib") else None, json=False)
    return len(problems)
