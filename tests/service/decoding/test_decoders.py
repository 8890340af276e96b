"""Decoding in separate processes: the same values, bounded memory, and dying processes."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.bundle import ZOO
from models.images.decoding import Size, decode, measure
from models.images.errors import NotAPicture, TooManyPixels
from models.loaded import load_model
from models.predictor import Predictor
from models.preprocessing import CannotCertify, plan
from service.decoding import decoders as module
from service.decoding import small
from service.decoding.decoders import DecoderLostError, Decoders, NoMemoryError, RefusedError
from service.decoding.reduction import FLOAT, Reduced, Task, reduce_file
from service.engine.queue import SHARED
from service.http.guards.budget import Budget, File, Holding

MAX_PIXELS = 4_000_000
TASK = Task(MAX_PIXELS, (1, 28, 28))


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def picture(width: int, height: int, form: str = "PNG", **how: Any) -> bytes:
    rng = np.random.default_rng(width)
    noise = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    pixels = noise.repeat(8, 0).repeat(8, 1)[:height, :width]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **how)
    return file.getvalue()


def plain(width: int, height: int) -> bytes:
    """A WebP of some dozen bytes, however many pixels it has."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (7, 7, 7)).save(file, "WEBP", lossless=True)
    return file.getvalue()


@asynccontextmanager
async def decoding(max_pixels: int = MAX_PIXELS) -> AsyncIterator[Decoders]:
    decoders = Decoders(max_pixels, 2**20, 100, pytest.fail)
    try:
        yield decoders
    finally:
        decoders.close()


def held(content: bytes) -> File:
    holding = Holding(Budget(2**30))
    holding.count(len(content))
    return File(content, holding)


async def reduce(
    decoders: Decoders, content: bytes, task: Task = TASK, admit: Callable[[Size], None] = print
) -> Reduced:
    return await decoders.reduce(held(content), task, SHARED, admit)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_decoder_prepares_the_same_input_as_a_worker(mode: str) -> None:
    """The input is the same bit for bit, and so are the terms of the certificate."""

    async def test() -> None:
        content = io.BytesIO()
        Image.open(io.BytesIO(picture(1500, 700))).convert(mode).save(content, "PNG")
        sent = decode(content.getvalue(), MAX_PIXELS)
        async with decoding() as decoders:
            reduced = await reduce(decoders, content.getvalue())
        assert reduced.prepared
        assert len(reduced.content) == 28 * 28 * 8
        prepared = np.frombuffer(reduced.content, FLOAT).reshape(1, 28, 28)
        preparation = plan(1500, 700, mode, 8, (1, 28, 28))
        assert (prepared == preparation.apply(sent.array())).all()
        predictor = Predictor(load_model(ZOO / "mnist-cnn"), 32)
        ours = predictor.encode(sent.array())
        theirs = predictor.encode_prepared(prepared, reduced.plan((1, 28, 28)))
        assert (ours.features.steps == theirs.features.steps).all()
        assert ours.features.on_grid == theirs.features.on_grid
        assert ours.terms == theirs.terms
        assert (reduced.width, reduced.height, reduced.values) == (1500, 700, sent.values)
        found = {(p, q): value for p, q, value in reduced.sensitivities}
        assert found["l2", "l2"] == preparation.sensitivity("l2", "l2")

    run(test)


def test_pictures_that_are_smaller_than_the_input_go_to_workers_as_they_are() -> None:
    small = picture(40, 30)
    reduced = reduce_file(small, Task(MAX_PIXELS, (3, 224, 224)))
    assert not reduced.prepared
    assert reduced.content == decode(small, MAX_PIXELS).pixels


def test_only_a_picture_that_is_changed_brings_sensitivities() -> None:
    small = picture(40, 30)
    assert len(reduce_file(small, Task(MAX_PIXELS, (3, 224, 224))).sensitivities) == 9
    reduced = reduce_file(small, Task(MAX_PIXELS, (3, 30, 40)))
    assert reduced.sensitivities == []
    # Whoever needs them computes them.
    assert reduced.plan((3, 30, 40)).sensitivity("l2", "l2") == 1


def test_small_pictures_need_no_process() -> None:
    async def test() -> None:
        async with decoding() as decoders:
            before = decoders._idle.copy()
            decoders._idle.clear()
            file = held(picture(300, 300))
            reduced = await decoders.reduce(file, TASK, SHARED, print)
            assert reduced.width == 300
            assert (file.content, file.holding.size) == (b"", 0)
            decoders._idle += before

    run(test)


def test_a_picture_is_measured_and_charged_before_it_is_decoded() -> None:
    async def test() -> None:
        content, sizes = plain(2000, 2000), list[Size]()
        assert len(content) < 1000
        async with decoding() as decoders:
            processes = {name: one._process.pid for name, one in decoders._decoders.items()}
            file = held(content)
            await decoders.reduce(file, TASK, SHARED, sizes.append)
            assert [one.work for one in sizes] == [4_000_000]
            assert file.holding.size == 0

            def refuse(size: Size) -> None:
                raise LookupError

            for _ in range(5):
                with pytest.raises(LookupError):
                    await reduce(decoders, content, admit=refuse)
            assert (await reduce(decoders, content)).width == 2000
            after = {name: one._process.pid for name, one in decoders._decoders.items()}
            assert after == processes, "a refusal takes no process"

    run(test)


def test_scans_count() -> None:
    """Each scan of a progressive JPEG goes through all pixels again."""
    scans = measure(picture(400, 300, "JPEG", progressive=True)).scans
    assert scans > 4
    assert measure(picture(400, 300, "JPEG")).work == 120_000
    assert measure(picture(400, 300, "JPEG", progressive=True)).work == scans * 120_000


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (picture(1500, 700)[:-20], NotAPicture),
        (plain(3000, 3000), TooManyPixels),
        (b"x" * 100_000, NotAPicture),
        (picture(17_000, 100), CannotCertify),
    ],
)
def test_refusals_of_processes_arrive(
    content: bytes, cause: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "LIGHT_BYTES", 0)

    async def test() -> None:
        async with decoding() as decoders:
            with pytest.raises(RefusedError) as caught:
                await reduce(decoders, content)
            assert caught.value.cause is cause
            assert (await reduce(decoders, plain(1000, 1000))).width == 1000

    run(test)


def test_a_process_that_dies_is_replaced_and_its_picture_tried_again() -> None:
    async def test() -> None:
        async with decoding() as decoders:
            for one in decoders._decoders.values():
                os.kill(one._process.pid, signal.SIGKILL)
            assert (await reduce(decoders, plain(1000, 1000))).width == 1000
            assert decoders.ready

    run(test)


def test_processes_that_end_while_idle_are_restarted() -> None:
    async def test() -> None:
        async with decoding() as decoders:
            await reduce(decoders, plain(1000, 1000))
            ended = [one._process for one in decoders._decoders.values()]
            for process in ended:
                process.kill()
                process.wait()
            assert not decoders.ready
            while not decoders.ready or decoders.trouble:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
            assert not {one._process for one in decoders._decoders.values()} & set(ended)

    run(test)


def test_a_process_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError('libjpeg is missing')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def test() -> None:
        broken = asyncio.get_running_loop().create_future()
        decoders = Decoders(MAX_PIXELS, 2**20, 100, broken.set_result)
        reason = await broken
        decoders.close()
        assert "a decoder cannot start: decoder" in reason
        assert "libjpeg is missing" in reason

    run(test)


def test_the_current_folder_hides_none_of_our_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("models", "service", "PIL", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of another project')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")

    async def test() -> None:
        async with decoding() as decoders:
            assert (await reduce(decoders, plain(1000, 1000))).width == 1000

    run(test)


def test_a_picture_over_which_processes_die_is_given_up() -> None:
    async def test() -> None:
        async with decoding() as decoders:

            def kill(size: Size) -> None:
                for one in decoders._decoders.values():
                    os.kill(one._process.pid, signal.SIGKILL)

            tries = 0
            true = module._Decoder.go_on

            def die(decoder: module._Decoder) -> Any:
                nonlocal tries
                tries += 1
                os.kill(decoder._process.pid, signal.SIGKILL)
                return true(decoder)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module._Decoder, "go_on", die)
                with pytest.raises(DecoderLostError):
                    await reduce(decoders, plain(2000, 2000))
            assert tries == 2
            assert (await reduce(decoders, plain(1000, 1000))).width == 1000

    run(test)


def test_the_memory_of_a_process_is_bounded_and_exceeding_it_blames_no_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 0)
    monkeypatch.setattr(module, "BYTES_A_PIXEL", 1)

    async def test() -> None:
        async with decoding() as decoders:
            with pytest.raises(NoMemoryError):
                await reduce(decoders, plain(2000, 2000))

    run(test)


def test_a_client_that_leaves_frees_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEFT_SECONDS", 0.0)

    async def test() -> None:
        async with decoding() as decoders:
            for _ in range(4):
                file = held(plain(2000, 2000))
                begun = asyncio.Event()
                work = asyncio.create_task(
                    decoders.reduce(file, TASK, SHARED, lambda size: begun.set())  # noqa: B023
                )
                await begun.wait()
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                assert file.content == b""
            assert (await reduce(decoders, plain(1000, 1000))).width == 1000
            await asyncio.gather(*decoders._works, return_exceptions=True)
            assert len(decoders._idle) == module.DECODERS

    run(test)


def test_a_picture_for_display() -> None:
    async def test() -> None:
        async with decoding() as decoders:
            shown = await reduce(decoders, picture(1500, 700), Task(MAX_PIXELS, side=100))
            assert max(Image.open(io.BytesIO(shown.content)).size) < 200

    run(test)


def test_processes_end_with_the_front(tmp_path: Path) -> None:
    async def test() -> list[Any]:
        async with decoding() as decoders:
            await reduce(decoders, plain(1000, 1000))
            return [one._process for one in decoders._decoders.values()]

    for process in asyncio.run(test()):
        assert process.wait(20) == -signal.SIGKILL
