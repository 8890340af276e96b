"""Cohen's procedure inside LitServe, with its batching: POST {"image": base64 of 8-bit pixels}.

python -m benchmarks.litserve_peer --bundle BUNDLE --port PORT --n N --confidence ETA
"""

import argparse
import base64
import json
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peers import cohen, load_classifier
from models.bundle import read_bundle

# A slow machine takes long for a batch of many draws.
TIMEOUT_SECONDS = 1800


class CohenApi(litserve.LitAPI):  # type: ignore[misc]
    """One worker's share: pictures in a batch are certified together."""

    def __init__(self, bundle: Path, n: int, confidence: float, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=0.01)
        self.bundle, self.n, self.confidence = bundle, n, confidence

    def setup(self, device: str) -> None:
        """Load the network, in one thread like the service's workers."""
        torch.set_num_threads(1)
        self.classifier, self.scale = load_classifier(self.bundle)
        self.shape = read_bundle(self.bundle).manifest.input.shape

    def decode_request(self, request: dict[str, str]) -> Tensor:
        """Return the picture [c, h, w] in [0, 1]."""
        pixels = np.frombuffer(base64.b64decode(request["image"]), dtype=np.uint8)
        return torch.from_numpy(pixels.astype(np.float32) / 255).reshape(self.shape)

    def batch(self, inputs: list[Tensor]) -> Tensor:
        """Stack pictures."""
        return torch.stack(inputs)

    def predict(self, pictures: Tensor) -> list[tuple[int, float]]:
        """Certify a batch."""
        return cohen(self.classifier, pictures, self.n, self.scale, self.confidence)

    def unbatch(self, output: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """Return the answers one by one."""
        return output

    def encode_response(self, output: tuple[int, float]) -> dict[str, Any]:
        """Return one answer."""
        return {"label": output[0], "size": output[1]}


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--confidence", type=float, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    api = CohenApi(arguments.bundle, arguments.n, arguments.confidence, arguments.batch)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=arguments.workers, timeout=TIMEOUT_SECONDS
    )
    server.run(port=arguments.port, host="127.0.0.1", generate_client_file=False)


def litserve_body(pixels: NDArray[np.uint8]) -> bytes:
    """Return the request body for one picture."""
    return json.dumps({"image": base64.b64encode(pixels.tobytes()).decode()}).encode()


if __name__ == "__main__":
    main()
