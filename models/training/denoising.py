"""Training an autoencoder in front of a classifier that stays as it is.

This makes a PixelDP network of a classifier that never saw noise: the noise is added before the
autoencoder or after its first layer (Lécuyer et al. 2019, section III-B, option 4), and the
autoencoder is trained for the classifier's answers to its pictures (Salman et al. 2020, "Denoised
smoothing").
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import networks
from models.bundle import Architecture, Bundle, Manifest
from models.certification.arrays import Integers
from models.data.labelled import DataSet
from models.denoiser import Denoiser
from models.network import load_network, load_weights, read_program
from models.networks.autoencoder import AUTOENCODER, CLASSIFIER
from models.training.checks import check_data, check_denoiser
from models.training.loop import Training
from models.training.losses import draws_loss
from models.training.recipe import Recipe


class DenoiserTraining(Training):
    """One training of an autoencoder.

    The targets are the classifier's own labels; those of ``data`` are not used.

    Args:
        recipe: its architecture is ``autoencoder``.
        data: pictures of the classifier's size.
        device: a torch device.
        classifier: a bundle with its noise in the image, so that its whole network is h.
        start: a denoiser of the recipe's network, from whose weights the training begins; None to
            begin with fresh ones.

    Raises:
        TrainingError: the classifier, the recipe and the data do not fit together.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: DataSet,
        device: str = "cpu",
        *,
        classifier: Bundle,
        start: Denoiser | None = None,
    ) -> None:
        front = classifier.manifest
        check_denoiser(recipe, classifier)
        check_data(recipe, classifier, data)
        goal = recipe.denoiser
        assert goal is not None
        self._classifier = classifier
        plain = load_network(classifier).classifier
        whole = Architecture(
            name=networks.DENOISED,
            arguments={
                AUTOENCODER: recipe.architecture.arguments,
                CLASSIFIER: front.architecture.model_dump(),
            },
        )
        goal = goal.model_copy(update={"classifier": classifier.digest})
        super().__init__(
            recipe.changed(
                architecture=whole.model_dump(),
                denoiser=goal.model_dump(),
                start=start and start.manifest.weights.sha256,
            ),
            replace(data, names=front.labels),
            device,
            read_program(classifier),
        )
        self._restoration = goal.restoration
        self._front = self.network.classifier.get_submodule(AUTOENCODER)
        self._behind = self.network.classifier.get_submodule(CLASSIFIER)
        self._behind.get_submodule("network").load_state_dict(plain.state_dict())
        if start:
            *_, network = self._front.children()  # a first layer before it stays as it was built
            load_weights(start, nn.Sequential(network))
        if self.held_out:
            # Read once: photographs show another square each time.
            held = replace(self.held_out, images=np.asarray(self.held_out.images[:]))
            self.held_out = replace(held, labels=self._own_labels(held))

    def manifest(self) -> Manifest:
        """Describe the present network, with the classifier behind the autoencoder."""
        manifest, front = super().manifest(), self._classifier.manifest
        record = {
            "name": front.name,
            "version": front.version,
            "digest": self._classifier.digest,
            "training": front.training,
        }
        training = {**manifest.training, "classifier": record}
        return manifest.model_copy(update={"training": training, "scoring": front.scoring})

    def validation(self, test: DataSet | None) -> tuple[DataSet | None, str]:
        """Return the pictures that are held out, as only these have the classifier's own labels."""
        return super().validation(None)

    def _loss(self, noisy: Tensor, pictures: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        with torch.no_grad(), self._autocast():
            own = self._behind(pictures).argmax(dim=1)
        with self._autocast():
            restored = self._front(noisy)
            logits = self._behind(restored)
        draws = self.recipe.draws
        logits = logits.float().reshape(draws, len(own), -1)
        loss = draws_loss(logits, own, self.recipe.consistency)
        if self._restoration:
            clean = pictures.repeat(draws, 1, 1, 1)
            loss = loss + self._restoration * F.mse_loss(restored.float(), clean)
        return loss, (logits.detach().argmax(-1) == own).float().mean().item()

    def _own_labels(self, data: DataSet) -> Integers:
        """Return the classifier's labels of the pictures without noise."""
        found = []
        for start in range(0, len(data), self.recipe.batch_size):
            images = data.images[start : start + self.recipe.batch_size]
            pictures = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
            with torch.no_grad():
                labels = self._behind(pictures.to(self.device)).argmax(dim=1)
            found.append(labels.cpu().numpy())
        return np.concatenate(found)
