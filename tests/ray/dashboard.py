"""What Ray's dashboard says of an application, and what it is told."""

import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.e2e.conftest import START_SECONDS

PATH = "/api/serve/applications/"


def wait_until(true: Callable[[], bool], what: str) -> float:
    """Wait until something is true; return the seconds that it took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() < begun + START_SECONDS, f"{what}: not after {START_SECONDS} s"
        time.sleep(0.2)
    return time.monotonic() - begun


class Dashboard:
    """The dashboard of a cluster.

    Args:
        address: of it.
        token: that the cluster's processes share.
        configure: returns the whole configuration for settings and changes of the deployment.
    """

    def __init__(self, address: str, token: str, configure: Callable[..., dict[str, Any]]) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.url = address
        self._http = httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False)
        self._configure = configure

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def nodes(self) -> int:
        """Count the nodes that live."""
        try:
            found = self._http.get("/nodes?view=summary").raise_for_status().json()
            nodes = found["data"]["summary"]
        except (httpx.HTTPError, ValueError, KeyError):
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def deploy(self, environment: dict[str, str], **deployment: Any) -> None:
        """Have Ray run the application with these settings; return before it does.

        With ``num_replicas`` there are so many, whatever happens.
        """
        whole = self._configure(environment, **deployment)
        if "num_replicas" in deployment:
            del whole["applications"][0]["deployments"][0]["autoscaling_config"]
        self._http.put(PATH, json=whole).raise_for_status()

    def replicas(self) -> dict[str, int]:
        """Return the running replicas, each with its process."""
        try:
            application = self._http.get(PATH).raise_for_status().json()["applications"]["pixeldp"]
            found = application["deployments"]["pixeldp"]["replicas"]
        except (httpx.HTTPError, ValueError, KeyError):
            return {}
        return {one["replica_id"]: one["pid"] for one in found if one["state"] == "RUNNING"}

    def wait_replicas(self, count: int, without: frozenset[str] = frozenset()) -> float:
        """Wait until exactly so many replicas run, none of those ``without``; return how long."""

        def there() -> bool:
            running = self.replicas()
            return len(running) == count and not without & running.keys()

        return wait_until(there, f"{count} replicas run")
