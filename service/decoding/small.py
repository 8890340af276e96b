"""Small pictures are decoded in the front process: other clients hardly notice."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from models.images.decoding import Size, measure
from service.decoding.reduction import Reduced, Task, reduce_file
from service.http.guards.budget import File

# How many are decoded at once.
SMALL_THREADS = 2
# Pictures up to this size are small.
LIGHT_BYTES, LIGHT_PIXELS, LIGHT_SIDE = 2**16, 2**18, 1024
# Up to this size, and in the model's own, the work takes less time than changing threads.
AT_ONCE_BYTES, AT_ONCE_PIXELS = 2**12, 2**13


class SmallPictures:
    """The threads for small pictures."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(SMALL_THREADS, "small")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    async def reduce(
        self, file: File, task: Task, admit: Callable[[Size], object]
    ) -> Reduced | None:
        """Decode a small picture, and release its file; None if it is a large one.

        Args:
            file: as it was sent.
            task: what to make of it.
            admit: called with the picture's size before it is decoded; may raise.

        Raises:
            PictureError: it is refused.
            CannotCertify: likewise.
        """
        if file.size > LIGHT_BYTES:
            return None
        run = asyncio.get_running_loop().run_in_executor
        look = partial(measure, file.content, task.max_pixels)
        size = look() if file.size <= AT_ONCE_BYTES else await run(self._pool, look)
        del look  # which refers to the bytes
        if size.work > LIGHT_PIXELS or max(size.width, size.height) > LIGHT_SIDE:
            return None
        admit(size)
        decode = partial(reduce_file, file.content, task, False)
        own = task.side is None and (size.height, size.width) == task.shape[1:]
        if own and file.size <= AT_ONCE_BYTES and size.work <= AT_ONCE_PIXELS:
            reduced = decode()
        else:
            reduced = await run(self._pool, decode)
        del decode
        file.release()
        return reduced
