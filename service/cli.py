"""The command ``pixeldp``.

What a command needs is imported inside it: PyTorch alone takes longer to import than help text
should take to appear. Whatever goes wrong with the input is one line on standard error and exit
status 1; a command line that makes no sense is status 2.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service import calculator

if TYPE_CHECKING:
    from models.evaluation.evaluate import Evaluation

BAD_INPUT, BAD_USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="pixeldp",
    help="Certified image classification: every answer proves how far a picture may be altered.",
    add_completion=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        status = app(args=arguments, prog_name="pixeldp", standalone_mode=False)
    except typer.TyperException as error:
        return _fail(error.format_message(), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (ValueError, OSError) as error:
        return _fail(str(error), BAD_INPUT)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    print(f"pixeldp: {' '.join(message.split())}", file=sys.stderr)
    return status


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(BAD_USAGE)


@app.command()
def serve(
    models: Annotated[
        list[Path] | None, typer.Argument(help="Bundles to serve; mnist-cnn by default.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (8000); 0: any free.")] = None,
    devices: Annotated[
        str | None, typer.Option(help="auto, or one for each worker: cpu,cpu or cuda:0,cuda:1.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; by default the fastest here.")
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Use compiled networks where faster."),
    ] = None,
    pass_size: Annotated[
        int | None, typer.Option(help="Draws in a forward pass; measured by default.")
    ] = None,
) -> None:
    """Serve models over HTTP.

    Everything else is set in the environment: PIXELDP_CONFIDENCE, PIXELDP_MAX_DRAWS and so on, as
    service/settings.py lists.
    """
    from pydantic import ValidationError

    from service.server import serve
    from service.settings import Settings

    given: dict[str, Any] = {
        "models": models,
        "host": host,
        "port": port,
        "devices": devices,
        "precision": precision,
        "pass_size": pass_size,
        "compile": compiled,
    }
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        raise ValueError(f"{name}: {first['msg']}") from None
    serve(settings)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="The recipe's name.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle, and of checkpoints till then.")],
    data: Annotated[Path | None, typer.Option(help="Folder that holds the data set.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Train on this .npz or folder per label instead.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the bundle; the recipe's name.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    download: Annotated[bool, typer.Option(help="Let torchvision fetch the data set.")] = False,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
) -> None:
    """Train a model by a recipe and save it as a bundle."""
    from models.training.datasets import load
    from models.training.loop import train
    from models.training.recipe import find_recipe

    given = {"name": name, "dataset": dataset, "seed": seed, "epochs": epochs, "threads": threads}
    changes = {name: value for name, value in given.items() if value is not None}
    chosen = find_recipe(recipe).changed(**changes)
    pictures = load(chosen.dataset, data, "train", download=download)
    manifest = train(chosen, pictures, out, resume=resume)
    spec = manifest.sensitivity
    typer.echo(
        f"{out}: {manifest.name}, {manifest.noise.mechanism} noise of scale "
        f"{manifest.noise.scale:g} ({manifest.noise.placement}), sensitivity {spec.value:g} "
        f"from {spec.input_norm} to {spec.noise_norm} ({spec.method})"
    )


def _radii(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected numbers with commas between, not {text!r}") from None


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    data: Annotated[str, typer.Option(help="mnist, cifar10, digits, an .npz, or a folder.")],
    root: Annotated[Path | None, typer.Option(help="Folder that holds a named data set.")] = None,
    split: Annotated[Literal["test", "train"], typer.Option(help="Of a named data set.")] = "test",
    download: Annotated[bool, typer.Option(help="Let torchvision fetch the data set.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Take every so many-th picture.")] = 1,
    draws: Annotated[int, typer.Option(min=64, help="Noise draws for each picture.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Of each picture's certificate.")] = 0.999,
    radii: Annotated[
        str, typer.Option(help="Sizes to report, with commas between.")
    ] = "0.25,0.5,0.75,1.0",
    norm: Annotated[
        Literal["l1", "l2", "linf"] | None, typer.Option(help="Of the sizes; the model's own.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="What the network runs in.")
    ] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU; all by default.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Keep the figures in the bundle.")] = False,
) -> None:
    """Measure a bundle's accuracy and certified accuracy on labelled pictures."""
    sizes = _radii(radii)

    import torch

    from models.bundle import read_bundle
    from models.evaluation.evaluate import PASS_SIZE, evaluate, record
    from models.predictor import Predictor
    from models.training.datasets import load

    if threads is not None:
        torch.set_num_threads(threads)
    predictor = Predictor(read_bundle(bundle), PASS_SIZE, precision=precision)
    evaluation = evaluate(
        predictor,
        load(data, root, split, download=download),
        every=every,
        max_draws=draws,
        confidence=confidence,
        radii=sizes,
        norm=norm,
        dataset=f"{Path(data).name} ({split})",
    )
    if write:
        record(bundle, evaluation)
    typer.echo(evaluation.model_dump_json(indent=2) if json else _table(evaluation))


def _table(evaluation: "Evaluation") -> str:
    which = "all" if evaluation.every == 1 else f"one in {evaluation.every}"
    lines = [
        f"{evaluation.model} {evaluation.version} on {evaluation.dataset}: "
        f"{evaluation.pictures:,} pictures ({which}), {evaluation.max_draws:,} draws each, "
        f"confidence {evaluation.confidence:g}",
        "",
        f"{'accuracy':<26}{evaluation.accuracy:>8.1%}",
    ]
    lines += [
        f"{f'certified at {evaluation.norm} >= {at.radius:g}':<26}{at.accuracy:>8.1%}"
        for at in evaluation.certified
    ]
    lines += [
        f"{'mean certified size':<26}{evaluation.mean_size:>8.3f}",
        f"{'nothing certified':<26}{evaluation.uncertified:>8,} pictures",
        "",
        f"{evaluation.draws:,} draws in {evaluation.seconds:.1f} s: "
        f"{evaluation.draws_per_second:,.0f} a second ({evaluation.device}, "
        f"{evaluation.precision}, threads: {evaluation.threads})",
    ]
    return "\n".join(lines)


calculator.register(app)

if __name__ == "__main__":
    sys.exit(main())
