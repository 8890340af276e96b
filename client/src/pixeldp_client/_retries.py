"""When a request is sent again, and when that ends.

Every request may be sent again: a prediction changes nothing, and its noise is fresh each time.
Nobody saw an answer that did not arrive, so trying again does not select among answers.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from pixeldp_client._errors import Timeout, Unavailable


@dataclass(frozen=True)
class Retries:
    """How often, and after how many seconds, a request is sent again.

    The wait is drawn uniformly from [0, base·2ⁿ], at most [0, longest], so that many clients do
    not return at the same moment. A Retry-After of the service is added.
    """

    most: int = 5
    base: float = 0.1
    longest: float = 5.0


class Attempts:
    """The attempts at one request, with one deadline for all of them.

    Args:
        retries: how often and how soon.
        timeout: seconds until the deadline.
    """

    def __init__(
        self,
        retries: Retries,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        share: Callable[[], float] = random.random,
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout} s; expected more than 0")
        self._retries, self._timeout = retries, timeout
        self._clock, self._share = clock, share
        self._deadline = clock() + timeout
        self._made = 0

    def left(self) -> float:
        """Return the seconds left.

        Raises:
            Timeout: there are none.
        """
        left = self._deadline - self._clock()
        if left <= 0:
            raise Timeout(f"there was no answer within {self._timeout:g} s")
        return left

    def wait_after(self, error: Unavailable) -> float:
        """Return the seconds to wait before the next attempt, after one that ended in ``error``.

        Raises:
            Unavailable: ``error`` itself, if there is no next attempt.
        """
        self._made += 1
        backoff = min(self._retries.longest, self._retries.base * 2.0 ** (self._made - 1))
        wait = (error.retry_after or 0.0) + backoff * self._share()
        if self._made > self._retries.most or wait >= self._deadline - self._clock():
            error.add_note(f"attempts made: {self._made}")
            raise error
        return wait
