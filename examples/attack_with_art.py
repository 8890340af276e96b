"""Attack a model with the Adversarial Robustness Toolbox, and compare with its certificates.

    python examples/attack_with_art.py [BUNDLE] [PICTURE]

ART needs ``pip install 'pixeldp[attacks]'``. Gradients are averaged over noise draws, so that the
attack sees what noise hides from a single draw. No attack can succeed inside the certified size.
"""

import sys
from pathlib import Path

import numpy as np
from art.attacks.evasion import ProjectedGradientDescent

from models.answering import answer_all
from models.bundle import locate, read_bundle
from models.certification.question import Question
from models.evaluation.tools import art_classifier, attackable
from models.images.folders import read_picture
from models.loaded import load_model
from models.predictor import Predictor


def main(name: str = "mnist-cnn", picture: str = "examples/7.png") -> None:
    """Certify a picture, attack it at the certified size, and certify the result."""
    bundle = read_bundle(locate(Path(name)))
    shape, labels = bundle.manifest.input.shape, bundle.manifest.labels
    predictor = Predictor(load_model(bundle.path), 64)
    question = Question(0.999, 500, None, "l2")
    pixels = read_picture(Path(picture)).array()
    _, before = next(answer_all(predictor, [pixels], question))
    label = before.total.leader
    print(f"{picture}: {labels[label]}, certified up to L2 {before.size:.3f}")

    estimator = art_classifier(attackable(bundle, draws=16), shape, len(labels))
    clean = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
    attack = ProjectedGradientDescent(
        estimator, norm=2, eps=before.size, eps_step=before.size / 4, max_iter=10, verbose=False
    )
    changed = attack.generate(clean, y=np.array([label]))
    # Towards the picture, so that rounding to 8 bits makes no change larger.
    steps = np.trunc((changed - clean) * 255).astype(np.int64)
    altered = (pixels + steps[0].transpose(1, 2, 0)).clip(0, 255).astype(np.uint8)
    _, after = next(answer_all(predictor, [altered], question))
    size = np.linalg.norm((altered.astype(float) - pixels) / 255)
    print(f"after a change of L2 {size:.3f}: {labels[after.total.leader]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
