"""From the weights' names in training scripts to those in the network."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from models.source_names import ImportFailedError

# Names that PyTorch adds to those of a network's parts: compilation, data parallelism, and more.
_WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Files of old releases of PyTorch lack it, and served models do not depend on it.
_COUNTER = "num_batches_tracked"
# What averaging (torch.optim.swa_utils) and operation counters (thop) leave beside weights.
_BOOKKEEPING = frozenset({"n_averaged", "total_ops", "total_params"})
_SHOWN = 4


@dataclass(frozen=True)
class Fitted:
    """Weights by the network's names, and the names of everything else in the file."""

    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]


def fit(
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    text: str,
    unneeded: tuple[str, ...] = (),
) -> Fitted:
    """Find a network's weights among ``tensors``.

    They may be part of something larger (``model.``, ``1.module.``), whose other parts are left
    out; but everything in that part must belong to the network.

    Args:
        tensors: by their names in a file.
        wanted: the network's own, by their names there.
        text: the network's name in errors.
        unneeded: prefixes of names in the network's part that it does not need.

    Raises:
        ImportFailedError: they do not fit; says what is missing, what exists, and what to do.
    """
    needed = {name for name in wanted if not name.endswith(_COUNTER)}
    for names in _readings(tensors, needed):
        counts = _prefixes(names, needed)
        prefixes = sorted(prefix for prefix, count in counts.items() if count == len(needed))
        if len(prefixes) > 1 and prefixes[0]:
            found = ", ".join(f"{prefix}*" for prefix in prefixes)
            raise ImportFailedError(
                f"the weights of {text} are there more than once, as {found}; keep only those that "
                "you mean"
            )
        if prefixes or not needed:
            prefix = prefixes[0] if prefixes else ""
            return _part(tensors, names, prefix, wanted, text, unneeded)
    raise _unfit(tensors, wanted, needed, text)


def _readings(tensors: Mapping[str, Tensor], needed: set[str]) -> Iterator[dict[str, str]]:
    """Yield ways to read the file's names, each as {what may be meant: name in the file}.

    They may have wrappers that the network lacks, and lack a prefix of all of the network's names.
    """
    plain = [
        ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in tensors
    ]
    levels = zip(*(name.split(".")[:-1] for name in needed), strict=False)
    common = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels)]
    for length in range(len(common) + 1):
        begin = "".join(f"{part}." for part in common[:length])
        yield {begin + name: name for name in tensors}
        if len(set(plain)) == len(plain):
            yield {begin + name: given for name, given in zip(plain, tensors, strict=True)}


def _prefixes(names: Mapping[str, str], needed: set[str]) -> Counter[str]:
    """Return the prefixes of needed names, and how many names have each."""
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for count in range(len(parts)):
            if ".".join(parts[count:]) in needed:
                found["".join(f"{part}." for part in parts[:count])] += 1
    return found


def _part(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    prefix: str,
    wanted: Mapping[str, Tensor],
    text: str,
    unneeded: tuple[str, ...],
) -> Fitted:
    """Take the part below ``prefix``, all of which must belong to the network."""
    kept = {name: tensors[names[prefix + name]] for name in wanted if prefix + name in names}
    inside = [name[len(prefix) :] for name in names if name.startswith(prefix)]
    unknown = [
        name
        for name in inside
        if name not in kept
        and name.rpartition(".")[2] not in _BOOKKEEPING
        and not name.startswith(unneeded)
    ]
    complaints = [
        f"{name} is {list(tensor.shape)} in the file and {list(wanted[name].shape)} in the network "
        "(another number of labels needs --labels)"
        for name, tensor in kept.items()
        if tensor.shape != wanted[name].shape
    ]
    if unknown:
        complaints.insert(0, f"the file also holds {_some(unknown)}, which the network lacks")
    if complaints:
        raise ImportFailedError(f"the weights do not fit {text}: {'; '.join(complaints[:_SHOWN])}")
    for name in wanted.keys() - kept.keys():
        kept[name] = torch.zeros_like(wanted[name])
    outside = (given for name, given in names.items() if not name.startswith(prefix))
    return Fitted(kept, tuple(outside))


def _unfit(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], needed: set[str], text: str
) -> ImportFailedError:
    """Return an error that compares the names by the reading that fits best."""
    best, begin, most = {name: name for name in tensors}, "", 0
    for names in _readings(tensors, needed):
        for prefix, count in _prefixes(names, needed).items():
            if count > most:
                best, begin, most = names, prefix, count
    missing = sorted(name for name in needed if begin + name not in best)
    there = sorted(given for name, given in best.items() if name[len(begin) :] not in wanted)
    holds = f", and holds {_some(there)}" if there else ""
    return ImportFailedError(
        f"the weights do not fit {text}: the file lacks {_some(missing)}{holds}; rename them, or "
        "give the network that they are for"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
