"""Keys' rates that several services share, through Redis.

Each service counts at once by itself, and tells Redis many times a second what its callers have
taken since the last time; Redis returns what is left over all services. So no request ever waits
for Redis. What one service does not know yet of another is a round trip and ``EVERY_SECONDS`` old;
whatever was taken meanwhile is counted all the same and becomes debt, so over time the services
together give a key its rate and no more.

While Redis does not answer, each service counts by itself: together they may give a key its rate
as often as there are services. When Redis is back, it is told of no more than a key may draw at
once: a long outage must not become a debt that nobody could have avoided. What Redis may or may not
have heard before a connection broke is told again, so at worst a key gets a little less.
"""

import asyncio
import json
import sys
import time
from importlib.util import find_spec
from typing import Any
from weakref import WeakSet

import structlog

from service.http.guards.keys import Allowance, Key
from service.settings import Settings

log = structlog.get_logger(__name__)

# The name of the task that does so.
SHARING = "the sharing of keys' rates"
EVERY_SECONDS = 0.05
# Redis is asked for this long; and when it has failed, again after the second.
PATIENCE_SECONDS, PAUSE_SECONDS = 1.0, 1.0
PREFIX = "pixeldp:rate:"
# For each key: what it may draw at most at once, its rate, and what was taken. Redis runs this as
# one step, by its own clock. The rate is part of the key, so another rate begins anew.
SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local left = {}
for place, key in ipairs(KEYS) do
  local most = tonumber(ARGV[3 * place - 2])
  local rate = tonumber(ARGV[3 * place - 1])
  local taken = tonumber(ARGV[3 * place])
  local bucket = redis.call('HMGET', key, 'level', 'at')
  local level = most
  if bucket[1] then
    level = math.min(most, tonumber(bucket[1]) + rate * math.max(0, now - tonumber(bucket[2])))
  end
  level = math.min(most, level - taken)
  redis.call('HSET', key, 'level', string.format('%.17g', level),
             'at', string.format('%.17g', now))
  redis.call('EXPIRE', key, math.ceil((most - level) / rate) + 60)
  left[place] = string.format('%.17g', level)
end
return left
"""


def check_redis() -> None:
    """Raise a ValueError that says what to do if there is no client of Redis."""
    if find_spec("redis") is None:
        raise ValueError(
            "PIXELDP_RATES_REDIS needs the package redis, which is not installed: "
            f"{sys.executable} -m pip install 'pixeldp[redis]'"
        )


class SharedAllowance(Allowance):
    """What a key may draw over all services.

    Args:
        key: the key, which has a rate.
        number: identifies it in this service.
    """

    def __init__(self, key: Key, number: int | None = None) -> None:
        super().__init__(key.rate)
        assert key.rate is not None
        self.number = self.number if number is None else number
        self.name = f"{PREFIX}{key.sha256}:{key.rate!r}"
        # What Redis has not been told, and what is on its way there.
        self._untold = self._telling = 0.0

    def take(self, draws: float) -> None:
        """See ``Allowance.take``."""
        super().take(draws)
        self._untold += draws

    def tell(self) -> tuple[float, float, float]:
        """Return what Redis needs: the most at once, the rate, and what was taken."""
        self._telling, self._untold = self._telling + self._untold, 0.0
        return self._most, self.rate or 0.0, self._telling

    def lose(self) -> None:
        """Keep what Redis was not told, up to what may be drawn at once."""
        self._telling, self._untold = min(self._telling + self._untold, self._most), 0.0

    def hear(self, left: float) -> None:
        """Take over what is left over all services."""
        self._telling = 0.0
        self._level, self._at = min(self._most, left - self._untold), time.monotonic()


def shared_rates(settings: Settings) -> "SharedRates | None":
    """Return the way to Redis, if the settings name one."""
    url = settings.rates_redis
    return None if url is None else SharedRates(url)


class SharedRates:
    """The allowances of one service, and the way to Redis.

    Args:
        url: of Redis, as ``redis://host:6379/0`` or ``rediss://…``.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._allowances: WeakSet[SharedAllowance] = WeakSet()
        self.connected: bool | None = None

    def allowance(self, key: Key, number: int | None = None) -> Allowance:
        """Return what a key may draw; without a rate there is nothing to share."""
        if key.rate is None:
            return Allowance(None)
        made = SharedAllowance(key, number)
        self._allowances.add(made)
        return made

    async def keep(self) -> None:
        """Tell Redis and hear from it, for as long as the service runs."""
        from redis.asyncio import Redis
        from redis.exceptions import RedisError

        client = Redis.from_url(
            self._url,
            retry=None,  # this loop asks again
            socket_timeout=PATIENCE_SECONDS,
            socket_connect_timeout=PATIENCE_SECONDS,
        )
        try:
            script = client.register_script(SCRIPT)
            task = asyncio.current_task()
            # Python's wait_for, by which the client sends, may swallow a cancellation before 3.12.
            while task is None or not task.cancelling():
                try:
                    await self._exchange(script)
                except (RedisError, OSError, TimeoutError) as error:
                    self._note(False, str(error))
                    await asyncio.sleep(PAUSE_SECONDS)
                else:
                    self._note(True)
                    await asyncio.sleep(EVERY_SECONDS)
        finally:
            await client.aclose()

    async def _exchange(self, script: Any) -> None:
        allowances = list(self._allowances)
        if self.connected is False:
            for allowance in allowances:
                allowance.lose()
        told = [one.tell() for one in allowances]
        numbers = [repr(number) for numbers in told for number in numbers]
        left = await script(keys=[one.name for one in allowances], args=numbers)
        for allowance, level in zip(allowances, left, strict=True):
            allowance.hear(json.loads(level))

    def _note(self, connected: bool, reason: str = "") -> None:
        """Log a change."""
        if connected == self.connected:
            return
        self.connected = connected
        if connected:
            log.info("keys' rates are shared through Redis")
        else:
            log.error(
                "Redis does not answer: until it does, keys' rates are for this service alone",
                reason=reason,
            )
