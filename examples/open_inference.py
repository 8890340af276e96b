"""Ask by the Open Inference Protocol, with Triton's own client.

pip install tritonclient[http]
python examples/open_inference.py 127.0.0.1:8000 examples/7.png --target 0.5
"""

import argparse
from pathlib import Path

import numpy as np
import tritonclient.http as triton


def main() -> None:
    """Ask about all pictures on the command line at once."""
    parser = argparse.ArgumentParser(description="Ask by the Open Inference Protocol.")
    parser.add_argument("url", help="host:port")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--model", default="mnist-cnn")
    parser.add_argument("--target", type=float, default=0.5)
    arguments = parser.parse_args()

    # One file per row. IMAGE takes pixels instead: UINT8 [batch, height, width, channels].
    files = np.array([[picture.read_bytes()] for picture in arguments.pictures], dtype=np.object_)
    tensor = triton.InferInput("IMAGE_BYTES", list(files.shape), "BYTES")
    tensor.set_data_from_numpy(files)

    with triton.InferenceServerClient(arguments.url) as client:
        result = client.infer(arguments.model, [tensor], parameters={"target": arguments.target})

    rows = zip(*(result.as_numpy(name)[:, 0] for name in ("LABEL", "ROBUST", "SIZE")), strict=True)
    for picture, (label, robust, size) in zip(arguments.pictures, rows, strict=True):
        print(f"{picture}: label {label}, {'robust' if robust else 'not robust'}, size {size:.6g}")


if __name__ == "__main__":
    main()
