"""The trial of h as it serves: is each row of a pass a function of that row alone?

The certificate assumes that h is one function of one row. For exported programs this is proven
(:mod:`models.networks.foreign.rows`), and for the networks of this project it is known. But
kernels, number formats and compilers come between the proof and what runs. So each h is tried on
the machine, in the number format and at the pass size in which it serves, whenever it is made: at
import, at every load, after compilation, and when passes become smaller.

No trial is enough for a network that was made to pass it. For an operator's own Python, it finds
the usual mistakes, and the model's record says that its rows rest on the operator's word.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, islice
from math import comb, inf, nan

import numpy as np
import torch
from torch import Tensor, nn

# The values that replace rows: ordinary ones, and ones far from any noise.
FILLINGS = (0.0, 1e4)
# Differences up to this part of the largest logit may be of rounding, in bfloat16 at most.
ROUNDING = 0.01

Run = Callable[[Tensor], Tensor]


class RowsError(ValueError):
    """h is not the same deterministic function of each row alone; says how it showed."""


def try_rows(run: Run, noisy: Tensor, network: nn.Module, alone: int = 0) -> None:
    """Try h on a pass of noisy pictures, every comparison bit for bit.

    The pass is run again with other seeds, in other orders, and with rows replaced: in a few passes
    such that for each ordered pair of rows there is one in which the first stays and the second is
    replaced, by zeros or by 10⁴, and in two with NaN.

    Args:
        run: h, [rows, …] to logits [rows, labels].
        noisy: [rows, …], a pass; at least two rows are made equal.
        network: the module that h runs, whose weights and buffers must not change.
        alone: the number of rows, evenly spaced, that are also kept one by one, with all others
            replaced.

    Raises:
        RowsError: h is not a function of one row.
    """
    before = _digest(network)
    noisy = noisy.clone()
    noisy[-1] = noisy[0]
    with _seeds() as reseed:

        def again(pictures: Tensor) -> Tensor:
            reseed()
            return _run(run, pictures)

        usual = again(noisy)
        if not _same(again(noisy), usual):
            raise RowsError(
                "it returns different logits for the same noisy picture: it draws random numbers "
                "of its own (dropout in training mode?) or remembers what it saw; put it into "
                "evaluation mode"
            )
        for kept, filling in _replacements(len(noisy), alone):
            _try_replaced(again, noisy, usual, kept, filling)
        _try_places(again, noisy, usual)
    if _digest(network) != before:
        raise RowsError(
            "it changes its own weights or buffers when it runs, so that an answer depends on the "
            "pictures before it; put it into evaluation mode"
        )


def _run(run: Run, pictures: Tensor) -> Tensor:
    try:
        return run(pictures.clone())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the network's code raises
        reason = " ".join(str(error).split())
        raise RowsError(f"it fails on some pictures ({type(error).__name__}: {reason})") from error


def _try_places(run: Run, noisy: Tensor, usual: Tensor) -> None:
    """Run the rows in other orders; the pass has equal rows at its ends."""
    orders = [
        torch.arange(len(noisy)).flip(0),
        torch.from_numpy(np.random.default_rng(0).permutation(len(noisy))),
    ]
    pairs = [(run(noisy[order]), usual[order]) for order in orders] + [(usual[-1], usual[0])]
    if all(_same(*pair) for pair in pairs):
        return
    apart = max(_apart(*pair) for pair in pairs)
    if apart <= ROUNDING * float(usual.nan_to_num(0, 0, 0).abs().max()):
        advice = (
            "as if the device rounded rows by their place, which happens to layers with few "
            "outputs; unset MKL_CBWR if it is set, or use another device, number format or width "
            "of the layer"
        )
    else:
        advice = (
            "which is more than rounding: its code numbers the rows, treats one of them "
            "differently, or adds noise of the whole pass to them; remove that"
        )
    raise RowsError(
        "what it returns for a picture depends on its place in the pass, but it must be a function "
        f"of the picture alone: it differs by up to {apart:.2g}, {advice}"
    )


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two values; infinite if only one of them is a number."""
    alike = (one == other) | (one.isnan() & other.isnan())
    return float(torch.where(alike, 0.0, (one - other).abs()).nan_to_num(inf, inf).max())


def _replacements(rows: int, alone: int) -> Iterator[tuple[Tensor, float | None]]:
    """Which rows stay in each pass, and what replaces the others; None: both fillings alternate."""
    for kept in codes(rows):
        yield kept, None
    even = torch.arange(rows) % 2 == 0
    if rows > 1:
        yield even, nan
        yield ~even, nan
    for number in range(alone):
        kept = torch.arange(rows) == number * rows // alone
        yield kept, None
        yield kept, (nan, *FILLINGS)[number % 3]


def codes(rows: int) -> list[Tensor]:
    """Sets of rows such that for any two rows one of the sets has the first and not the second.

    Each row stays in half of n passes, another half for each: of two different sets of one size
    neither contains the other (Sperner 1928). C(n, ⌊n/2⌋) rows need n passes, fewer than one code
    for each bit and value: 11 for 256 rows.

    Returns:
        [rows] booleans, one for each pass.
    """
    passes = next(count for count in range(rows + 1) if comb(count, count // 2) >= rows)
    chosen = islice(combinations(range(passes), passes // 2), rows)
    kept = torch.zeros(passes, rows, dtype=torch.bool)
    for row, stays in enumerate(chosen):
        kept[list(stays), row] = True
    return list(kept)


def _try_replaced(
    run: Run, noisy: Tensor, usual: Tensor, kept: Tensor, filling: float | None
) -> None:
    changed = noisy.clone()
    if filling is not None:
        changed[~kept] = filling
    else:
        for part, one in enumerate(FILLINGS):
            changed[(~kept) & (torch.arange(len(noisy)) % 2 == part)] = one
    if not _same(run(changed)[kept], usual[kept]):
        raise RowsError(
            "its rows look at each other: what it returns for a picture changes with the pictures "
            "beside it, which makes many draws one (batch norm in training mode, or without "
            "running statistics? activations quantised by the batch's range?); put it into "
            "evaluation mode, or change the part that mixes rows"
        )


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


@contextmanager
def _seeds() -> Iterator[Callable[[], None]]:
    """Seed all global generators again at each call, and restore them at the end."""
    number = 0

    def reseed() -> None:
        nonlocal number
        number += 1
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number)

    ours, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield reseed
        finally:
            random.setstate(ours)
            np.random.set_state(numpys)


def _digest(network: nn.Module) -> str:
    """A digest of all tensors that the modules hold, registered or not."""
    digest = hashlib.blake2b()
    for module in network.modules():
        held = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
        for tensor in held:
            if isinstance(tensor, Tensor):
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
