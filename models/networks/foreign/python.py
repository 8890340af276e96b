"""Classifiers that a Python function builds.

A bundle that names such a function runs code on the machine that loads it. So it may name only a
function without arguments, in a module or file that the machine's operator has listed in
``PIXELDP_BUILDERS``: a bundle by itself runs nothing.

A module is searched for where Python searches, and then in the current folder, so that nothing
there hides an installed package, above all the project's own.
"""

import copy
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from models.networks.foreign.torchvision_operators import declare_missing_operators
from models.networks.foreign.wrapping import normalised
from models.source_names import BUILDER

ALLOWED = "PIXELDP_BUILDERS"
# The project's own packages: no other module can have these names.
_OWN = ("models", "service")


def absolute(builder: str) -> str:
    """Return ``builder`` in a form that means the same in every folder: a file by its whole path.

    Raises:
        ValueError: it is not a builder.
    """
    code, name = _parts(builder)
    return f"{code}:{name}"


def allow(builder: str) -> str:
    """Allow the code of ``builder`` in this process, and return the variable's new value."""
    code, _ = _parts(builder)
    allowed = _allowed()
    if code not in allowed:
        allowed.append(code)
    os.environ[ALLOWED] = ",".join(allowed)
    return os.environ[ALLOWED]


def build_python(
    shape: tuple[int, int, int],
    labels: int,
    *,
    builder: str,
    mean: Sequence[float],
    std: Sequence[float],
    **layout: bool,
) -> nn.Sequential:
    """Build normalisation and the classifier, with whatever weights its function gives it.

    Args:
        shape: (channels, height, width) of the pictures.
        labels: the number of logits that it should return; checked when it runs.
        builder: ``module:function`` or ``file.py:function``; the function takes no arguments and
            returns an ``nn.Module`` from pictures [batch, channels, height, width] to logits
            [batch, labels].
        mean: of each channel.
        std: of each channel.
        layout: as of :func:`models.networks.foreign.wrapping.normalised`.

    Raises:
        ValueError: the code is not allowed or cannot be imported, or its function does not return
            a module.
    """
    code, name = _parts(builder)
    if code not in _allowed():
        raise ValueError(
            f"names Python code, {builder}, which is not run by default: set {ALLOWED}={code} in "
            "the environment if you trust that code"
        )
    # Before any of the users' code: torchvision, timm and converters fail at import without this.
    declare_missing_operators()
    file = Path(code) if code.endswith(".py") else None
    # The function may import further modules.
    with _findable(file.parent if file else Path.cwd()):
        function = getattr(_import(code, file), name, None)
        if function is None:
            raise ValueError(f"{builder} cannot be imported ({code} has no {name})")
        try:
            network = function()
        except (Exception, SystemExit) as error:  # whatever their code raises
            raise ValueError(f"{builder}() failed: {type(error).__name__}: {error}") from None
    if not isinstance(network, nn.Module):
        raise ValueError(f"{builder}() returned {type(network).__name__}; expected an nn.Module")
    reason = _unfit(network)
    if reason:
        raise ValueError(f"{builder}() returned a network that {reason}")
    return normalised(network, shape, mean, std, **layout)


@contextmanager
def _findable(folder: Path) -> Iterator[None]:
    """Let modules be found in ``folder``, after all other places."""
    path = str(folder)
    added = path not in sys.path
    if added:
        sys.path.append(path)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if added:
            sys.path.remove(path)


def _import(code: str, file: Path | None) -> ModuleType:
    """Import a module, or a file as one.

    Raises:
        ValueError: it cannot be; says why.
    """
    own = code.partition(".")[0]
    if file is None and own in _OWN:
        raise ValueError(f"{code} cannot be imported ({_clash(own)})")
    try:
        return importlib.import_module(code) if file is None else _run(file)
    except (Exception, SystemExit) as error:  # whatever their code raises
        reason = f"{type(error).__name__}: {error}"
        missing = (getattr(error, "name", None) or "").partition(".")[0]
        if isinstance(error, ImportError) and missing in _OWN:
            reason = f"{error}: {_clash(missing)}"
        elif isinstance(error, ModuleNotFoundError) and error.name == code:
            reason = (
                f"{error}; searched among the installed packages, on PYTHONPATH and in the "
                f"current folder, {Path.cwd()}"
            )
        raise ValueError(f"{code} cannot be imported ({' '.join(reason.split())})") from None


def _clash(own: str) -> str:
    return (
        f"PixelDP itself has a package {own}, so it cannot use yours of that name: export the "
        "network by torch.export, and import the file"
    )


def _run(file: Path) -> ModuleType:
    """Import a file as a module of its own, once."""
    name = f"pixeldp_builder_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _unfit(network: nn.Module) -> str | None:
    """Return why a network cannot be stored as weights, copied, moved and cast, if it cannot."""
    for part in network.modules():
        kind = type(part)
        if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
            return f"is spread over devices ({kind.__name__}); return the network inside, .module"
        if ".quantized" in kind.__module__:
            return (
                f"is quantised ({kind.__module__}.{kind.__name__}); return the float network: the "
                "service chooses number formats itself, and a scale that is computed from a whole "
                "batch would let its pictures affect each other"
            )
        if isinstance(part, torch.jit.ScriptModule):
            return "is scripted or traced; return the nn.Module, or use torch.export"
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor):
            return f"has {name} without a shape yet; run it once on a picture before returning it"
        found = _odd(tensor)
        if found:
            return f"holds {name}, which is {found}; expected plain real tensors with values"
    odd = [name for name, held in network.state_dict().items() if not isinstance(held, Tensor)]
    if odd:
        return f"has {odd[0]} in its state, which is not a tensor; a bundle stores only tensors"
    try:
        copy.deepcopy(network).to(torch.float32)
    except Exception as error:  # whatever their code raises
        return f"cannot be copied and cast: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _odd(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "on the meta device"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse or nested"
    if tensor.is_quantized:
        return "quantised"
    return "complex" if tensor.is_complex() else None


def _parts(builder: str) -> tuple[str, str]:
    """Return a module's name or a file's whole path, and the function's name."""
    match = BUILDER.fullmatch(builder)
    if match is None:
        raise ValueError(f"builder {builder!r}: expected module:function or file.py:function")
    return _whole(match[1]), match[2]


def _whole(code: str) -> str:
    return str(Path(code).resolve()) if code.endswith(".py") else code


def _allowed() -> list[str]:
    given = (name.strip() for name in os.environ.get(ALLOWED, "").split(","))
    return [_whole(name) for name in given if name]
