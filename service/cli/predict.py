"""``pixeldp predict`` and ``models``: answers without a running service."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.certification.names import Norm
from service.cli.device_option import DeviceOption, check_device
from service.cli.sizes import shown
from service.cli.sticker_options import MASKS, MasksOption, ThreatOption

if TYPE_CHECKING:
    from models.bundle import Bundle
    from models.certification.question import Question
    from models.family import Family
    from models.predictor import Predictor
    from models.preprocessing import Pixels

    Choose = Callable[[Pixels], Predictor]

# Rows of a pass: one picture at a time rarely needs many more draws than this.
PASS = 64
SHOWN_SCORES = 5
SKIPPED = 1

Json = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]


def predict(
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, or folders of them.")],
    model: Annotated[
        Path | None,
        typer.Option(
            help="The bundle: a folder, or a name of the zoo; by default mnist-cnn. Of a family "
            "(.family.json, or a name of the zoo) the target chooses the member."
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="The size that you need; of stickers, their side in pixels."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="The probability that everything in an answer holds; by default 0.95, and 1 for "
            "split noise and intervals."
        ),
    ] = None,
    max_draws: Annotated[int, typer.Option(help="The draw budget of each picture.")] = 1000,
    norm: Annotated[
        Norm | None, typer.Option(help="The norm of sizes; by default the model's own.")
    ] = None,
    allow: Annotated[
        str | None,
        typer.Option(
            help="Labels, divided by commas: with a target, whether none but these may be first."
        ),
    ] = None,
    threat: ThreatOption = "norm",
    masks: MasksOption = MASKS,
    device: DeviceOption = None,
    as_json: Json = False,
) -> int:
    """Say what is in pictures, and how far each could be altered without changing the answer.

    If some pictures cannot be answered, standard error names them, and the exit status is 1.
    """
    if confidence is not None and not 0 < confidence <= 1:
        raise typer.BadParameter(f"confidence must lie between 0 and 1, not {confidence:g}")
    check_device(device)
    files = list(_files(pictures))

    from models.asking import ask, ask_about_stickers, find_labels
    from models.bundle import ZOO, describe, locate
    from models.family import is_family, read_family

    path = ZOO / "mnist-cnn" if model is None else locate(model)
    family = read_family(path) if is_family(path) else None
    bundle = describe(path if family is None else family.folders[family.default])
    if threat == "sticker":
        if norm is not None or allow is not None:
            raise typer.BadParameter("--norm and --allow are not about stickers; omit them")
        question = ask_about_stickers(bundle.manifest, target, masks)
    else:
        allowed = None if allow is None else find_labels(allow, bundle.manifest.labels)
        question = ask(bundle.manifest, confidence, max_draws, target, norm, allowed, usual=0.95)
    if not any(file.exists() for file in files):
        for file in files:
            typer.echo(f"pixeldp: {file}: {os.strerror(errno.ENOENT)}", err=True)
        return SKIPPED

    from tqdm import tqdm

    choose = _members(bundle, family, question, device)
    skipped = 0
    if not as_json:
        size = "sticker" if question.masks else "size"
        typer.echo(_row("label", size, "robust", "certain", "draws", "picture"))
    bar = tqdm(files, unit="picture", disable=len(files) < 2 or not sys.stderr.isatty())
    for file in bar:
        # The progress bar and the lines share a terminal.
        with tqdm.external_write_mode() if not bar.disable else nullcontext():
            skipped += not _print_answer(choose, file, question, as_json=as_json)
    return SKIPPED if skipped else 0


def models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Bundles, families, folders of them, or names of the zoo; by default the whole "
            "zoo."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List bundles with their input, noise and measured figures, families and denoisers."""
    from models.bundle import DENOISER, FAMILY, MANIFEST, ZOO, locate_denoiser, read_bundle
    from models.family import is_family

    for given in folders or [ZOO]:
        folder = locate_denoiser(given)
        families = [folder] if is_family(folder) else sorted(folder.glob(f"*{FAMILY}"))
        for file in families:
            _list_family(file, as_json)
        if is_family(folder):
            continue
        found, alone = _described(folder, MANIFEST), _described(folder, DENOISER)
        if not found and not alone:
            raise ValueError(f"{folder}: no bundle here; expected {MANIFEST} or folders with one")
        for path in alone:
            _list_denoiser(path, as_json)
        for path in found:
            bundle = read_bundle(path)
            manifest = bundle.manifest
            if as_json:
                document = manifest.model_dump(mode="json")
                document = {"path": str(bundle.path), "rows": manifest.rows, **document}
                typer.echo(json.dumps(document))
                continue
            noise, shape = manifest.noise, "x".join(map(str, manifest.input.shape))
            typer.echo(
                f"{manifest.name}:{manifest.version}  {shape}, {len(manifest.labels)} labels, "
                f"{noise.mechanism} {noise.scale:g} ({noise.placement}), certified in "
                f"{manifest.sensitivity.input_norm}, rows {manifest.rows}  {bundle.path}"
            )


def _described(folder: Path, name: str) -> list[Path]:
    """Return ``folder`` if it has a file of that name, else its subfolders that have one."""
    if (folder / name).exists():
        return [folder]
    return [file.parent for file in sorted(folder.glob(f"*/{name}"))]


def _list_denoiser(folder: Path, as_json: bool) -> None:
    from models.denoiser import LEAST_SIDE, read_denoiser

    manifest = read_denoiser(folder).manifest
    if as_json:
        document = manifest.model_dump(mode="json")
        typer.echo(json.dumps({"path": str(folder), "denoiser": document}))
        return
    noise = manifest.noise
    typer.echo(
        f"{manifest.name}:{manifest.version}  a denoiser, {manifest.channels} channels, from "
        f"{LEAST_SIDE} pixels a side, {noise.mechanism} {noise.scale:g}: pixeldp import "
        f"--denoiser  {folder}"
    )


def _list_family(file: Path, as_json: bool) -> None:
    from models.family import read_family

    family = read_family(file).file
    if as_json:
        typer.echo(json.dumps({"path": str(file), "family": family.model_dump(mode="json")}))
        return
    members = ", ".join(f"{one.bundle} from {one.least_target:g}" for one in family.members)
    typer.echo(f"{family.name}  a family, default {family.default}: {members}  {file}")


def _files(paths: list[Path]) -> Iterator[Path]:
    from models.images.folders import SUFFIXES, find_pictures, report_others

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = find_pictures(path)
        if not found.pictures:
            raise ValueError(f"{path}: no picture files here (of {' '.join(sorted(SUFFIXES))})")
        if found.others:
            typer.echo(f"pixeldp: {report_others(found.others)}", err=True)
        yield from found.pictures


def _members(
    bundle: "Bundle", family: "Family | None", question: "Question", device: str | None
) -> "Choose":
    """Return what finds the predictor for a picture: of a family, that of the target's member."""
    from models.bundle import read_bundle
    from models.calibration import calibrate
    from models.device import find_device
    from models.family import check_members
    from models.loaded import load_model
    from models.picture_terms import target_at_input

    found = find_device(device)

    @cache
    def load(path: Path) -> "Predictor":
        # For a few pictures, converting the network would take longer than running it.
        return calibrate(load_model(read_bundle(path)), found, None, PASS, "pytorch")[0]

    if family is None:
        only = load(bundle.path)
        return lambda pixels: only
    check_members(family.path, [read_bundle(folder) for folder in family.folders])
    folders, default = family.folders, family.folders[family.default]

    def choose(pixels: "Pixels") -> "Predictor":
        usual = load(default)
        if question.target is None or question.masks:
            return usual
        height, width, channels = pixels.shape
        preparation = usual.plan((height, width, channels), 8 * pixels.itemsize)
        own = bundle.manifest.sensitivity.input_norm
        target = target_at_input(question.target, question.norm, own, preparation)
        return load(folders[family.position(target)])

    return choose


def _print_answer(choose: "Choose", file: Path, question: "Question", *, as_json: bool) -> bool:
    """Print the answer for a picture; False, and a line on standard error, if there is none."""
    from models.images.folders import PictureFileError
    from models.preprocessing import CannotCertify

    try:
        answer = _answer(choose, file, question)
    except (PictureFileError, CannotCertify, OSError) as error:
        # The first kind names its file; the system's errors do so only in most cases.
        named = "" if isinstance(error, PictureFileError) else f"{file}: "
        typer.echo(f"pixeldp: {named}{error}", err=True)
        return False
    if as_json:
        typer.echo(json.dumps({"file": str(file), **answer}))
    else:
        robust = {True: "yes", False: "no", None: ""}[answer["robust"]]
        size = shown(answer["certified_size"] if "norm" in answer else answer["target"])
        name, draws = answer["label"]["name"], str(answer["draws"])
        typer.echo(_row(name, size, robust, _set(answer.get("certain")), draws, str(file)))
    return True


def _answer(choose: "Choose", file: Path, question: "Question") -> dict[str, Any]:
    from dataclasses import asdict

    from models.answering import answer_about_stickers, answer_all
    from models.certification.answer import AnyConclusion, conclude
    from models.images.folders import read_picture

    pixels = read_picture(file).array()
    predictor = choose(pixels)
    pictures, names = [pixels], predictor.manifest.labels
    certified: dict[str, Any]
    answer: AnyConclusion
    if question.masks:
        _, views = next(answer_about_stickers(predictor, pictures, question))
        answer = conclude(views, SHOWN_SCORES)
        certified = {"threat": "sticker", "robust": answer.certified}
    else:
        _, inquiry = next(answer_all(predictor, pictures, question))
        answer = conclude(inquiry, SHOWN_SCORES)
        certified = {
            "robust": answer.robust,
            "certain": answer.certain
            and {
                "labels": [{"index": one, "name": names[one]} for one in answer.certain.labels],
                "within_allowed": answer.certain.within_allowed,
            },
            "certified_size": answer.certified_size,
            "norm": answer.norm,
        }
    model, device = predictor.bundle, predictor.device
    return {
        "model": {
            "name": model.manifest.name,
            "version": model.manifest.version,
            "digest": model.digest,
        },
        "label": {"index": answer.label, "name": names[answer.label]},
        **certified,
        "target": question.target,
        "confidence": question.confidence,
        "draws": answer.draws,
        "stopped": answer.stopped,
        "scores": [
            {
                "name": names[score.index],
                "expected": score.expected,
                "lower": score.lower,
                "upper": score.upper,
            }
            for score in answer.scores
        ],
        "compute": {"device": device, **asdict(predictor.execution)},
    }


def _set(certain: dict[str, Any] | None) -> str:
    """Name the labels that may be first, if they are few."""
    if certain is None:
        return ""
    labels = [label["name"] for label in certain["labels"]]
    named = ",".join(labels) if len(labels) <= SHOWN_SCORES else f"{len(labels)} labels"
    return (
        named + {True: " (allowed)", False: " (not allowed)", None: ""}[certain["within_allowed"]]
    )


def _row(label: str, size: str, robust: str, certain: str, draws: str, picture: str) -> str:
    return f"{label:<16} {size:>8}  {robust:<6} {certain:<16} {draws:>6}  {picture}"
