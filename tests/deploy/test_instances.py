"""Two instances of the service behind real nginx, with keys' rates shared through real Redis."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.http.guards import keys
from tests.deploy.conftest import free_port
from tests.deploy.proxy import Proxy
from tests.deploy.tools import ROOT
from tests.e2e.conftest import PLAIN, Service
from tests.service.http.guards.test_shared_rates import Server

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png"}
SEVEN = (ROOT / "examples" / "7.png").read_bytes()
# A picture of 128 draws is more than this key gets in an hour, once its burst is used up.
RATE = 0.01
OPTIONS = {"max_draws": 128}


class Instances:
    """Two services, nginx before them, and a Redis that they share."""

    def __init__(self, folder: Path) -> None:
        file = folder / "keys.json"
        self.free = keys.add(file, "free", ["predict"], None)
        self.slow = keys.add(file, "slow", ["predict"], RATE)
        (folder / "redis").mkdir()
        self.redis = Server(folder / "redis")
        environment = {**PLAIN, "PIXELDP_KEYS": str(file), "PIXELDP_RATES_REDIS": self.redis.url}
        self.services = [Service(environment=environment) for _ in range(2)]
        one, two = (each.wait_ready().address.removeprefix("http://") for each in self.services)
        another = f"{one} max_fails=0;\n        server {two}"
        self.proxy = Proxy(folder, another, f"127.0.0.1:{free_port()}")

    def ask(self, key: str, service: int | None = None) -> httpx.Response:
        """Ask through nginx, or a service itself."""
        headers = {**PNG, "Authorization": f"Bearer {key}"}
        if service is None:
            return self.proxy.client.post(
                "/predict", params=OPTIONS, content=SEVEN, headers=headers
            )
        url = f"{self.services[service].address}/predict"
        return httpx.post(url, params=OPTIONS, content=SEVEN, headers=headers)

    def stop(self) -> None:
        self.proxy.stop()
        for service in self.services:
            service.stop()
        self.redis.stop()


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instances]:
    running = Instances(tmp_path_factory.mktemp("instances"))
    yield running
    running.stop()


def test_what_one_instance_gives_the_other_does_not(instances: Instances) -> None:
    assert instances.ask(instances.slow, 0).status_code == 200
    statuses = Counter[int]()
    while statuses[429] < 2:  # the other one has heard of it
        statuses[instances.ask(instances.slow, 1).status_code] += 1
    # Before it has, it may give one burst.
    assert statuses[200] <= 1
    assert set(statuses) <= {200, 429}
    refused = instances.ask(instances.slow)
    assert refused.status_code == 429
    assert refused.json()["type"] == "/problems/rate-limited"


def test_both_instances_answer_and_the_end_of_one_loses_nothing(instances: Instances) -> None:
    def ask(number: int) -> int:
        if number == 20:
            instances.services[1].process.kill()
        return instances.ask(instances.free).status_code

    with ThreadPoolExecutor(4) as clients:
        statuses = Counter(clients.map(ask, range(60)))
    assert statuses == {200: 60}
    # Both had pictures, and those of the killed one went to the other.
    assert all("/predict" in service.log for service in instances.services)
    assert ", 200" in instances.proxy.access.read_text()


def test_without_redis_the_instance_answers_and_counts_by_itself(instances: Instances) -> None:
    instances.redis.stop()
    assert instances.ask(instances.free, 0).status_code == 200
    assert instances.ask(instances.slow, 0).status_code == 429
    assert "Redis does not answer" in instances.services[0].log
