"""Services with every setting at its lowest or at its highest value answer pictures."""

import httpx
import pytest

from tests.e2e.conftest import Start

pytestmark = pytest.mark.slow

# Except for times, which slow machines need.
LEAST = {
    "MODELS": "mnist-cnn",
    "PASS_SIZE": "8",
    "QUEUE": "1",
    "QUEUE_BYTES": "1",
    "STOP_DELAY_SECONDS": "0",
    "CONFIDENCE": "1e-300",
    "MAX_DRAWS": "64",
    "MAX_DRAWS_LIMIT": "64",
    "MAX_BYTES": "1024",
    "MAX_PIXELS": "784",
    "MAX_BATCH": "1",
    "LOG_LEVEL": "error",
}
# Except for the size of a pass, which takes memory.
MOST = {
    "MODELS": "mnist-cnn,mnist-cnn-l1",
    "QUEUE": "1000000",
    "QUEUE_BYTES": str(2**60),
    "STALL_SECONDS": "86400",
    "CONFIDENCE": "0.9999999999999999",
    "MAX_DRAWS_LIMIT": str(2**23 - 1),
    "TIMEOUT_MS": "86400000",
    "TIMEOUT_MS_LIMIT": "86400000",
    "MAX_BYTES": str(2**30),
    "MAX_PIXELS": "89478485",
    "MAX_BATCH": "4096",
    "LOG_LEVEL": "debug",
    # Settings whose values come from elsewhere.
    "SERVICE_HOST": "10.0.0.7",
    "REPOSITORY": "",
}


@pytest.mark.parametrize("settings", [LEAST, MOST], ids=["least", "most"])
def test_a_service_at_the_end_of_every_range_answers(
    start: Start, settings: dict[str, str], seven: bytes
) -> None:
    environment = {f"PIXELDP_{name}": value for name, value in settings.items()}
    running = start(environment={**environment, "PIXELDP_DEVICES": "cpu"})
    try:
        with httpx.Client(base_url=running.address, timeout=60) as client:
            answer = client.post("/predict", content=seven).json()
            assert answer["label"]["name"] == "7"
            assert answer["certified_size"] > 0
            form = [("image", ("", seven))] * int(min(settings["MAX_BATCH"], "3"))
            for one in client.post("/predict/batch", files=form).json()["predictions"]:
                assert one["certified_size"] > 0
            loaded = client.post("/v2/repository/models/service/load")
            assert "PIXELDP_REPOSITORY" in loaded.json()["error"]
    finally:
        assert running.stop() == 0
    assert ("PIXELDP_SERVICE_HOST" in running.log) == (settings is MOST)
