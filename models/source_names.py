"""The names of classifiers made elsewhere, checked without importing anything.

The whole grammar of ``pixeldp import``:

==================  =============================================================================
net.pt2             the file of a program saved by ``torch.export``
net.onnx            an ONNX file
hf:FOLDER           a classifier as Hugging Face's libraries save it
timm:NAME           one of timm's classifiers
cohen:FILE          a checkpoint of Cohen et al.'s code for randomized smoothing
file.py:function    a function of a file, which builds an ``nn.Module``
module:function     a function of a module: installed, on PYTHONPATH or in the current folder
name                one of torchvision's classifiers, such as resnet50
==================  =============================================================================
"""

import re
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

ARCHIVE, ONNX = ".pt2", ".onnx"
_COHEN, _FOLDER, _TIMM = "cohen:", "hf:", "timm:"
# Each is a kind of source, even if there is a module of that name.
_PREFIXES = (_COHEN, _FOLDER, _TIMM, "onnx:")
TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
# The packages that read a kind of source, of the extra ``formats``.
_NEEDED = {"onnx": "onnx", "hf": "transformers", "timm": "timm"}
BUILDER = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*|[^:,\0]*[^:,\0/]\.py):([A-Za-z_]\w*)")
# The classifiers of the required version of torchvision; a test compares the list with it.
_TORCHVISION = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l
efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75
mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf
regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf
regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf
regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d
resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t
vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16
vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
TORCHVISION = frozenset(_TORCHVISION.split())


class ImportFailedError(ValueError):
    """A classifier cannot be made a bundle; says why."""


def is_builder(text: str) -> bool:
    """Whether ``text`` is ``module:function`` or ``file.py:function``."""
    return BUILDER.fullmatch(text) is not None and not text.startswith(_PREFIXES)


def cohen_file(text: str) -> Path | None:
    """Return the file of ``cohen:FILE``; None if ``text`` is another source."""
    return Path(text.removeprefix(_COHEN)) if text.startswith(_COHEN) else None


def folder_of(text: str) -> Path | None:
    """Return the folder of ``hf:FOLDER``; None if ``text`` is another source."""
    return Path(text.removeprefix(_FOLDER)) if text.startswith(_FOLDER) else None


def timm_name(text: str) -> str | None:
    """Return the name of ``timm:NAME``; None if ``text`` is another source."""
    return text.removeprefix(_TIMM) if text.startswith(_TIMM) else None


def check_source(text: str) -> None:
    """Check that ``text`` names a source, and that its file exists if it has one.

    Raises:
        ImportFailedError: it does not; says what is expected.
    """
    code, colon, _ = text.partition(":")
    if checkpoint := cohen_file(text):
        _check_file(checkpoint, "imported")
    elif text.endswith(ARCHIVE):
        _check_file(Path(text), "imported")
    elif text.endswith(ONNX):
        if colon and code == "onnx":
            raise ImportFailedError(f"{text}: give the file itself: {text.removeprefix('onnx:')}")
        _check_file(Path(text), "imported")
        _check_package("onnx")
    elif folder := folder_of(text):
        if not folder.is_dir():
            raise ImportFailedError(
                f"{text}: there is no folder {folder}; nothing is downloaded: give the folder with "
                "config.json and model.safetensors"
            )
        _check_package("hf")
    elif name := timm_name(text):
        if TIMM_NAME.fullmatch(name) is None:
            raise ImportFailedError(f"timm has no classifier {name!r:.80}; expected timm:resnet18")
        _check_package("timm")
    elif is_builder(text):
        if code.endswith(".py"):
            _check_file(Path(code), "imported")
    elif text not in TORCHVISION:
        near = get_close_matches(text, sorted(TORCHVISION), 1)
        near = [f"{_FOLDER}{text}"] if Path(text).is_dir() else near
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ImportFailedError(
            f"{text!r} is not a classifier: expected an archive of torch.export ({ARCHIVE}), an "
            f"{ONNX} file, hf:FOLDER, timm:NAME, cohen:FILE, a Python module:function or "
            "file.py:function that builds one, or a name of torchvision's, such as resnet50 or "
            f"vit_b_16{hint}"
        )


def check_weights(file: Path) -> None:
    """Check that there is a file with weights.

    Raises:
        ImportFailedError: there is none.
    """
    _check_file(file, "read as weights")


def _check_package(kind: str) -> None:
    """Refuse a kind of source whose package is not installed."""
    package = _NEEDED[kind]
    if find_spec(package) is None:
        raise ImportFailedError(
            f"this source is read by {package}, which is not installed: "
            f"{sys.executable} -m pip install 'pixeldp[formats]'"
        )


def _check_file(file: Path, use: str) -> None:
    if not file.is_file():
        raise ImportFailedError(f"{file}: cannot be {use} (there is no file {file})")
