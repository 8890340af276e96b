"""Measures at start how a model runs fastest on the present machine.

The certificate holds for any function h, so a lower precision costs no soundness as long as a
picture meets the same h in all its draws; a predictor never changes its h.
"""

from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from operator import itemgetter
from statistics import median

from models.bundle import MANIFEST, BundleError
from models.device import Device, open_device
from models.execution import (
    Calibration,
    Execution,
    Format,
    Provider,
    ProviderError,
    SmallPass,
    obstacle,
    ways,
)
from models.loaded import LoadedModel
from models.memory import is_out_of_memory
from models.networks.interval import check_way
from models.predictor import Predictor
from models.trial import RowsError

# The pass size at which number formats are compared, unless that takes too long.
TYPICAL_PASS = 256
# Answers are sent between passes: with a large network they must not wait longer than these
# seconds.
LONGEST_PASS = 1.0
LEAST_PASS = 8
# The smallest pass that makes this share of the best speed: beyond it only waiting times grow.
KNEE = 0.95
# Where passes are short, their sizes are measured in turns, from the smallest up and down again:
# the best of single measurements is one of a quick moment, and processors change their speed.
KNEE_TURNS = 5
SECONDS_A_TRIAL = 0.06
# A format that is this many times slower in the smallest pass is not tried in a larger one, nor by
# another provider: on processors without bfloat16 this would take most of the start.
FAR_BEHIND = 4.0
# Small passes, for few pictures in flight. Another provider converts the network for each size, so
# only the first is tried.
SMALL_SIZES = (32, 48, 64)
# What they are chosen for: the draws of pictures at a target of half the noise scale. At confidence
# 0.999, 28 draws suffice if all agree.
TYPICAL_DRAWS = (28, 28, 28, 28, 46, 136)
SECONDS_A_SMALL_TRIAL = 0.03
# Small passes must answer such pictures in less than this share of the time.
SMALL_PAYS = 0.8
# The ways that are slower than the fastest by less than this factor, in a first turn, get as many
# more, if a pass takes less than these seconds.
NEAR = 2.5
FURTHER_TURNS = 4
LONGEST_TURN = 0.25
# A network must be this many times faster than uncompiled PyTorch to be run compiled, or by another
# provider.
WORTHWHILE = 1.05


def calibrate(
    model: LoadedModel,
    device: str | Device,
    precision: Format | None,
    pass_size: int | None,
    provider: Provider | None = None,
    int8: bool = True,
) -> tuple[Predictor, Calibration]:
    """Find the way of running a model that draws fastest.

    Args:
        model: the model.
        device: the device, or its name.
        precision: None to measure which is fastest.
        pass_size: None to measure which is enough.
        provider: None to measure which is fastest, of those that are installed.
        int8: whether int8 may be chosen if the model's record allows it.

    Raises:
        ProviderError: the provider is missing here, or cannot run the network.
        RuntimeError: the network runs in none of the formats.
        BundleError: no format and pass size keeps its rows apart.
    """
    on, allowed = open_device(device), int8 and may_use_int8(model)
    predictors = [
        Predictor(model, LEAST_PASS, on, kind, provider=by)
        for by, kind in _ways(model, on.name, provider, precision, allowed)
    ]
    if pass_size is not None and len(predictors) == 1:
        return _as_told(model, predictors[0], pass_size)
    # Other providers convert the network for each pass size, and are measured at the typical one.
    quick = [one for one in predictors if one.provider == "pytorch"] or predictors
    first = _measure(quick, LEAST_PASS)
    best = max(speed for speed, _ in first)
    far = {predictor.precision for speed, predictor in first if FAR_BEHIND * speed < best}
    near = [(speed, predictor) for speed, predictor in first if predictor.precision not in far]
    trial = pass_size or _bearable(min(speed for speed, _ in near))
    late = [one for one in predictors if one not in quick and one.precision not in far]
    measured = _in_turns(_measure([*(predictor for _, predictor in near), *late], trial))
    speed, predictor = max(measured, key=_worth)
    if pass_size is None and trial == TYPICAL_PASS:
        speed = _find_knee(predictor, speed)
    fastest = predictor, predictor.pass_size
    predictor = _alone(model, [predictor, *(one for _, one in measured)], pass_size)
    if (predictor, predictor.pass_size) != fastest:
        speed = predictor.measure(SECONDS_A_TRIAL)
    return predictor, _calibration(predictor, speed)


def _ways(
    model: LoadedModel,
    device: str,
    provider: Provider | None,
    precision: Format | None,
    int8: bool,
) -> list[tuple[Provider, Format]]:
    """Return the ways of running a model here; there is only one for intervals."""
    if model.manifest.noise.mechanism == "interval":
        provider, precision = provider or "pytorch", precision or "float32"
        check_way(model.manifest.noise.mechanism, provider, precision)
    return ways(device, provider, precision, int8)


def find_small(predictor: Predictor) -> SmallPass | None:
    """Find smaller passes for when few pictures are in flight; return None if they do not pay.

    They are those in which one picture after another is answered soonest. Large passes are measured
    again, as all are beside what the worker does meanwhile.
    """
    sizes = [size for size in SMALL_SIZES if 2 * size <= predictor.pass_size]
    if predictor.provider != "pytorch":
        sizes = sizes[:1]
    tried: list[tuple[float, SmallPass]] = []
    for size in sizes:
        with suppress(ProviderError):
            small = gauge_small(_smaller(predictor, size))
            tried.append((_typical_seconds(size, small.draws_per_second), small))
    if not tried:
        return None
    large = gauge_small(predictor)
    enough = SMALL_PAYS * _typical_seconds(large.pass_size, large.draws_per_second)
    for seconds, small in sorted(tried, key=itemgetter(0)):
        if seconds <= enough:
            with suppress(RowsError, ProviderError):
                _smaller(predictor, small.pass_size).try_rows()
                return small
    return None


def _smaller(predictor: Predictor, pass_size: int) -> Predictor:
    """Return a model in smaller passes, beside the passes that serve.

    A device keeps what it prepared for the sizes that were used last. If it gave up that of the
    passes that serve, it would make it again, perhaps in another way: pictures would meet an h that
    was not tried.
    """
    predictor.resident.prepare(predictor.pass_size)
    return predictor.resized(pass_size)


def _typical_seconds(pass_size: int, draws_per_second: float) -> float:
    """Return how long typical pictures take, one after another."""
    passes = sum(ceil(draws / pass_size) for draws in TYPICAL_DRAWS)
    return passes * pass_size / draws_per_second


def make_small(predictor: Predictor, pass_size: int) -> SmallPass:
    """Try and measure smaller passes that others of the kind have chosen.

    Raises:
        RowsError: in them h is not a function of one row.
        ProviderError: its provider cannot run them.
    """
    smaller = _smaller(predictor, pass_size)
    smaller.try_rows()
    return gauge_small(smaller)


def gauge_small(predictor: Predictor) -> SmallPass:
    """Measure a model in small passes, as it runs."""
    return SmallPass(predictor.pass_size, round(predictor.measure(SECONDS_A_SMALL_TRIAL), 1))


def may_use_int8(model: LoadedModel) -> bool:
    """Whether int8 may be chosen for a model: its record says that it loses little."""
    return model.manifest.int8 is not None and model.manifest.int8.serves


def _as_told(
    model: LoadedModel, predictor: Predictor, pass_size: int
) -> tuple[Predictor, Calibration]:
    """Run a model in passes of ``pass_size``, or of the half or less if they do not fit."""
    predictor.pass_size = pass_size
    while True:
        try:
            calibration = gauge(predictor)
            _alone(model, [predictor], predictor.pass_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or predictor.pass_size < 2 * LEAST_PASS:
                raise
        else:
            return predictor, calibration
        # Not inside the except: the traceback keeps alive what the pass had allocated.
        predictor.on.free()
        predictor.pass_size //= 2


def _worth(measured: tuple[float, Predictor]) -> float:
    """Return a way's draws per second, weighted for comparison with PyTorch's."""
    speed, predictor = measured
    return speed if predictor.provider == "pytorch" else speed / WORTHWHILE


def _calibration(predictor: Predictor, speed: float) -> Calibration:
    return Calibration(
        predictor.precision,
        predictor.pass_size,
        round(speed, 1),
        predictor.compiled,
        predictor.provider,
    )


def run_pinned(
    model: LoadedModel, device: str | Device, pin: Execution
) -> tuple[Predictor, Calibration]:
    """Run a model in one way and no other.

    Raises:
        ProviderError: it cannot be run so here.
    """
    on = open_device(device)
    if reason := obstacle(on.name, pin.provider, pin.precision):
        raise ProviderError(reason)
    predictor = Predictor(model, pin.pass_size, on, pin.precision, provider=pin.provider)
    try:
        if pin.compiled:
            predictor = predictor.compile()
        else:
            predictor.try_rows()
    except RowsError as error:
        raise ProviderError(f"in that way h is no function of one row: {error}") from None
    return predictor, gauge(predictor)


def _alone(model: LoadedModel, predictors: Sequence[Predictor], pass_size: int | None) -> Predictor:
    """Return the first of ``predictors`` that keeps rows apart, in smaller passes if need be.

    A kernel may round a row differently at another place of a pass: then that format and pass size
    must not serve, but others may.

    Raises:
        BundleError: none keeps the rows apart.
    """
    sizes = [predictors[0].pass_size]
    while pass_size is None and sizes[-1] > LEAST_PASS:
        sizes.append(sizes[-1] // 2)
    reason = ""
    for predictor in dict.fromkeys(predictors):
        for size in sizes:
            predictor.pass_size = size
            try:
                predictor.try_rows()
            except (RowsError, ProviderError) as error:
                reason = reason or f"{_named(predictor)}, {size} rows a pass: {error}"
            else:
                return predictor
    raise BundleError(
        model.bundle.path / MANIFEST, "architecture", f"h is not a function of one row: {reason}"
    )


def _named(predictor: Predictor) -> str:
    by = "by OpenVINO " if predictor.provider == "openvino" else ""
    return f"{by}in {predictor.precision}"


def _measure(predictors: Sequence[Predictor], pass_size: int) -> list[tuple[float, Predictor]]:
    """Return the draws per second of the predictors that run.

    Raises:
        RuntimeError: none of them runs; it is the first one's.
    """
    found: list[tuple[float, Predictor]] = []
    failed: RuntimeError | None = None
    for predictor in predictors:
        predictor.pass_size = pass_size
        try:
            found.append((predictor.measure(SECONDS_A_TRIAL), predictor))
        except RuntimeError as error:
            # Imported networks may compute in float32 whatever the format of their weights. A
            # traceback would keep alive what the pass had allocated.
            failed = failed or error.with_traceback(None)
    if failed and not found:
        raise failed
    return found


def _in_turns(measured: list[tuple[float, Predictor]]) -> list[tuple[float, Predictor]]:
    """Return ways with their median draws per second, after more turns of those near the fastest.

    A processor that others use, too, may be half as fast in one turn as in the next. A pass that is
    longer than a turn meets faster and slower moments by itself.
    """
    best, fastest = max(measured, key=itemgetter(0))
    near = [one for speed, one in measured if NEAR * speed >= best]
    if len(near) == 1 or fastest.pass_size > best * LONGEST_TURN:
        return measured
    found = {one: [speed] for speed, one in measured}
    for _ in range(FURTHER_TURNS):
        for one in near:
            found[one].append(one.measure(SECONDS_A_TRIAL))
    return [(median(speeds), one) for one, speeds in found.items()]


def _bearable(speed: float) -> int:
    """Return the largest pass size, up to the typical one, that does not take too long."""
    size = TYPICAL_PASS
    while size > LEAST_PASS and size > speed * LONGEST_PASS:
        size //= 2
    return size


def _find_knee(predictor: Predictor, typical: float) -> float:
    """Set the smallest pass size that is nearly as fast as any; return its speed.

    Args:
        predictor: the predictor to measure.
        typical: its draws per second at ``TYPICAL_PASS``.
    """
    found: dict[int, list[float]] = {}
    turns = KNEE_TURNS if typical * LONGEST_TURN >= TYPICAL_PASS else 1
    for turn in range(turns):
        sizes = list(found) if turn else predictor.on.pass_sizes
        for size in sizes[::-1] if turn % 2 else sizes:
            predictor.pass_size = size
            try:
                known = not turn and size == TYPICAL_PASS
                speed = typical if known else predictor.measure(SECONDS_A_TRIAL)
            except ProviderError:
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            found.setdefault(size, []).append(speed)
    speeds = {size: median(of) for size, of in found.items()}
    enough = KNEE * max(speeds.values())
    predictor.pass_size = next(size for size, speed in speeds.items() if speed >= enough)
    return speeds[predictor.pass_size]


def gauge(predictor: Predictor) -> Calibration:
    """Measure a model as it runs."""
    return _calibration(predictor, predictor.measure(SECONDS_A_TRIAL))


def compare(predictor: Predictor, compiled: Predictor) -> Calibration | None:
    """Measure a model and its compiled form, alternating.

    Returns:
        The calibration of the compiled form if it is worth the change, or else None.
    """
    eager = max(predictor.measure(SECONDS_A_TRIAL) for _ in range(2))
    speed = max(compiled.measure(SECONDS_A_TRIAL) for _ in range(2))
    if speed < WORTHWHILE * eager:
        return None
    return _calibration(compiled, speed)
