"""Two front processes on one port are one service."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from service.http.guards.keys import add
from tests.chaos.processes import children, title, tree, wait_gone
from tests.e2e.conftest import PLAIN, START_SECONDS, Service, Start, copy_bundle
from tests.e2e.own_network import OwnNetwork, in_flight, picture, wait_for
from tests.e2e.test_visibility import logged

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png"}
FRONTS = {**PLAIN, "PIXELDP_FRONTS": "2"}
# A rate so slow that nothing is added while the tests run.
SLOW = 1e-6


class Shop:
    """A service with two fronts, its keys, and a connection to each front."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"
        self.key = add(self.path, "shop", ["predict", "admin", "metrics"], None)
        copy_bundle(folder / "repository" / "second", name="second")
        environment = {
            **FRONTS,
            "PIXELDP_KEYS": str(self.path),
            "PIXELDP_REPOSITORY": str(folder / "repository"),
        }
        self.service = Service(environment=environment).wait_ready()

    @contextmanager
    def each(self) -> Iterator[list[httpx.Client]]:
        """Yield a client for each front; it keeps its connection."""
        with ExitStack() as stack:
            found: dict[str, httpx.Client] = {}
            end = time.monotonic() + START_SECONDS
            while sorted(found) != ["front1", "front2"]:  # one of them may be starting
                assert time.monotonic() < end
                client, name = self.client(), f"probe{time.monotonic_ns()}"
                assert client.get("/models", headers={"X-Request-Id": name}).status_code == 200
                front = logged(self.service, request_id=name)["front"]
                if front in found:
                    client.close()
                else:
                    found[front] = client
                    stack.callback(client.close)
            yield [found[name] for name in sorted(found)]

    def client(self, key: str = "") -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.service.address, headers=headers, timeout=300)

    def metrics(self) -> dict[str, float]:
        """Return every sample by its name and labels."""
        with self.client() as client:
            text = client.get("/metrics").text
        return {
            f"{one.name}{sorted(one.labels.items())}": one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
        }

    def counters(self) -> dict[str, float]:
        rising = re.compile(r"_(total|count|sum|bucket)\[")
        return {name: value for name, value in self.metrics().items() if rising.search(name)}

    def front(self, number: int) -> int:
        """Return the process of a serving front."""
        [pid] = [one for one in children(self.service.process.pid) if is_front(one, number)]
        return pid


def is_front(pid: int, number: int | str = "") -> bool:
    return title(pid).startswith(f"pixeldp-front{number}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    one = Shop(tmp_path_factory.mktemp("shop"))
    yield one
    assert one.service.stop() == 0
    assert one.service.log.count("PixelDP answers on") == 1
    assert one.service.log.count('"event": "stopped"') == 1


def ask(client: httpx.Client, content: bytes, query: str = "target=0.5") -> httpx.Response:
    return client.post(f"/predict?{query}", content=content, headers=PNG)


def test_each_front_answers_in_every_way(shop: Shop, seven: bytes) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 800), np.uint8)
    stream = BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    assert len(stream.getvalue()) > 2**16, "which goes to a decoder"
    with shop.each() as clients:
        for client in clients:
            assert ask(client, seven).json()["label"]["name"] == "7"
            large = ask(client, stream.getvalue(), "confidence=0.9").json()
            assert (large["picture"]["width"], large["picture"]["height"]) == (800, 900)
            broken = ask(client, stream.getvalue()[:-5000])
            assert broken.status_code == 400, broken.text
            events = client.post("/predict/stream?target=1.5", content=seven, headers=PNG).text
            assert "event: look" in events
            assert "event: answer" in events
            infer = client.get("/v2/models/mnist-cnn/ready")
            assert infer.json()["ready"]
            [model] = client.get("/models").json()["models"]
            assert model["calibrations"][0]["workers"] == 1


def test_a_rate_holds_over_all_fronts(shop: Shop, seven: bytes) -> None:
    """One picture is answered; from then on, no front has draws left for that key."""
    for first in (0, 1):
        headers = {"Authorization": f"Bearer {add(shop.path, f'slow{first}', ['predict'], SLOW)}"}
        with shop.each() as clients:
            for client in clients:
                client.headers.update(headers)
            answered = ask(clients[first], seven, "max_draws=64")
            assert answered.status_code == 200, answered.text
            for client in (*clients, *reversed(clients)):
                refused = ask(client, seven)
                assert refused.status_code == 429
                assert refused.json()["retry_after_s"] > 1000


def test_one_scrape_is_the_whole_service(shop: Shop, seven: bytes) -> None:
    name = "pixeldp_requests_total[('outcome', 'robust'), ('route', '/predict'), ('status', '200')]"
    with shop.each() as clients:
        before = shop.metrics()
        for client in (*clients, *clients, clients[0]):
            assert ask(client, seven).status_code == 200
        after = shop.metrics()
    assert after[name] - before.get(name, 0.0) == 5
    assert after["pixeldp_key_predictions_total[('key', 'shop')]"] >= 5
    assert after["pixeldp_ready[]"] == 1
    assert after["pixeldp_held_bytes[('by', 'large')]"] == 0
    assert after["process_cpu_seconds_total[]"] >= before["process_cpu_seconds_total[]"]


def test_every_front_serves_a_model_when_it_is_loaded_and_none_when_it_is_unloaded(
    shop: Shop, seven: bytes
) -> None:
    with shop.each() as clients:
        for turn in range(4):
            one, other = clients[turn % 2], clients[1 - turn % 2]
            loaded = one.post("/v2/repository/models/second/load")
            assert loaded.status_code == 200, loaded.text
            for client in (other, one):
                answered = ask(client, seven, "model=second&target=0.5")
                assert answered.json()["model"]["name"] == "second", answered.text
                described = client.get("/models/second").json()
                assert described["calibrations"], described
            assert one.post("/v2/repository/models/second/unload").status_code == 200
            for client in (other, one):
                assert ask(client, seven, "model=second").status_code == 404


def test_models_that_cannot_be_loaded_are_the_same_problem_in_every_front(shop: Shop) -> None:
    with shop.each() as clients:
        told = [client.post("/v2/repository/models/none/load") for client in clients]
        assert {one.status_code for one in told} == {404}
        [text] = {one.text for one in told}
        assert "none" in text


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_front_that_dies_or_hangs_is_replaced_and_the_others_go_on(
    shop: Shop, seven: bytes, end: signal.Signals
) -> None:
    with shop.each() as clients:
        for client in clients:
            assert ask(client, seven).status_code == 200
        before = shop.counters()
        lost = shop.front(1)
        os.kill(lost, end)
        for _ in range(5):
            assert ask(clients[1], seven).status_code == 200
        assert wait_gone([lost], START_SECONDS) == []
        with shop.client() as new:
            for client in (new, clients[1]):
                assert ask(client, seven).status_code == 200
        after = shop.counters()
        assert {name for name in before if after[name] < before[name]} == set()
    with shop.each() as clients:
        for client in clients:
            assert ask(client, seven).status_code == 200
    assert shop.front(1) != lost


@pytest.fixture(scope="module")
def held(start: Start, own_network: OwnNetwork) -> Iterator[Service]:
    """A service with two fronts whose network holds its passes, and with room for four to wait."""
    running = own_network.serve(
        start, PIXELDP_FRONTS="2", PIXELDP_QUEUE="4", PIXELDP_SHRINK="false"
    )
    yield running
    own_network.unsay()
    assert running.stop() == 0


QUERY = "confidence=0.999&max_draws=4000&timeout_ms=600000"


def value(service: Service, name: str) -> float:
    text = httpx.get(f"{service.address}/metrics", timeout=300).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


class Clients:
    """Clients that ask, each in a thread and over a connection of its own.

    Patient ones ask again if there is no place.
    """

    def __init__(self, service: Service, content: bytes) -> None:
        self._service, self._content = service, content
        self._threads: list[threading.Thread] = []
        self.statuses: list[int] = []

    def ask(self, count: int, patient: bool = True) -> None:
        for _ in range(count):
            self._threads.append(threading.Thread(target=self._ask, args=[patient]))
            self._threads[-1].start()

    def _ask(self, patient: bool) -> None:
        url, status = f"{self._service.address}/predict?{QUERY}", 503
        try:
            while status == 503:
                answered = httpx.post(url, content=self._content, headers=PNG, timeout=600)
                status = answered.status_code
                if not patient:
                    break
            self.statuses.append(status)
        except httpx.TransportError:
            self.statuses.append(0)

    def wait(self) -> list[int]:
        for thread in self._threads:
            thread.join(START_SECONDS)
        return sorted(self.statuses)


def test_the_queue_is_shared_by_all_fronts(own: OwnNetwork, held: Service, tmp_path: Path) -> None:
    """However connections are divided among the fronts, no more pictures wait than may."""
    own.say("hold")
    clients = Clients(held, picture(tmp_path, 51))
    clients.ask(40, patient=False)
    queued = "pixeldp_pictures_queued"
    wait_for(lambda: len(clients.statuses) + in_flight(held) + value(held, queued) == 40)
    assert value(held, queued) == 4
    refused = list(clients.statuses)
    assert set(refused) == {503}
    own.unsay("hold")
    assert clients.wait() == [200] * (40 - len(refused)) + refused


def test_the_pictures_of_a_dead_front_leave_the_workers(
    own: OwnNetwork, held: Service, tmp_path: Path
) -> None:
    own.say("hold")
    clients = Clients(held, picture(tmp_path, 51))
    clients.ask(19)
    wait_for(lambda: in_flight(held) + value(held, "pixeldp_pictures_queued") == 19)
    own.wait_held()
    for pid in filter(is_front, children(held.process.pid)):
        os.kill(pid, signal.SIGKILL)
    assert clients.wait() == [0] * 19
    held.wait_ready()
    assert value(held, "pixeldp_pictures_queued") == in_flight(held) == 0
    assert value(held, 'pixeldp_held_bytes{by="large"}') == 0
    own.unsay("hold")
    again = Clients(held, picture(tmp_path, 51))
    again.ask(20)
    assert again.wait() == [200] * 20, "all places are free again"


def test_a_client_that_leaves_frees_its_slots(
    own: OwnNetwork, held: Service, tmp_path: Path
) -> None:
    own.say("hold")
    content = picture(tmp_path, 51)
    host, port = held.address.removeprefix("http://").split(":")
    head = f"POST /predict?{QUERY} HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
    connections = [socket.create_connection((host, int(port)), 300) for _ in range(6)]
    for count, one in enumerate(connections, 1):  # all at once, they could find no place
        one.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        wait_for(lambda count=count: in_flight(held) == count)
    for one in connections:
        one.close()
    wait_for(lambda: in_flight(held) == 0)
    own.unsay("hold")


def test_a_stop_answers_everything_and_leaves_nothing(
    start: Start, own: OwnNetwork, own_network: OwnNetwork, tmp_path: Path
) -> None:
    service = own_network.serve(start, PIXELDP_FRONTS="2")
    own.say("hold")
    clients = Clients(service, picture(tmp_path, 51))
    clients.ask(10)
    wait_for(lambda: in_flight(service) == 10)
    processes = tree(service.process.pid)
    assert len(processes) == 6  # main, two fronts, two decoders, a worker
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(service.stop)
        logged(service, event="drain begins", front="front1")
        logged(service, event="drain begins", front="front2")
        own.unsay("hold")
        assert stopping.result() == 0
    assert clients.wait() == [200] * 10
    assert wait_gone(processes, START_SECONDS) == []


def test_nothing_is_left_if_the_main_process_dies() -> None:
    service = Service(environment=FRONTS).wait_ready()
    processes = tree(service.process.pid)
    assert len(list(filter(is_front, processes))) == 2
    service.process.kill()
    service.process.wait()
    assert wait_gone(processes, START_SECONDS) == []
    service.stop()
