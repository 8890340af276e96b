"""Recipes: everything that a training depends on, except its data, as one JSON-able description.

A recipe is written in full into the bundle that its training makes.
"""

from difflib import get_close_matches
from typing import Annotated, Any, Self, cast

from pydantic import Field, ValidationError, model_validator

from models.bundle import (
    AUTOENCODER,
    IMAGE,
    UNET,
    Architecture,
    ConstructionBound,
    Name,
    Part,
    Positive,
    Version,
)
from models.certification.certificates import construction_scale
from models.certification.laws import LAWS
from models.certification.laws.interval import largest_radius
from models.certification.laws.split import count_draws
from models.certification.names import Mechanism, Norm
from models.execution import Precision

# The data set of denoisers' recipes: any folder.
PHOTOGRAPHS = "photographs"
# The side of the squares that they are trained on.
SQUARE_SIDE = 96
# A bundle states a scale above 0. This one is too small for the service to draw.
NO_NOISE = 1e-6

Share = Annotated[float, Field(ge=0, lt=1)]


class Optimiser(Part):
    """AdamW under a one-cycle schedule (Smith and Topin 2018).

    ``learning_rate`` is the peak of the cycle, reached after the share ``warm_up`` of all steps.
    """

    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-2
    warm_up: Annotated[float, Field(gt=0, lt=1)] = 0.3


class Augmentation(Part):
    """The random changes of each picture, drawn each time it is seen.

    Attributes:
        shift: by up to this many whole pixels along each axis; pixels from outside are black.
        rotation: by up to this many degrees either way.
        stretch: larger or smaller by up to this share.
        shear: rows are moved sideways by up to this share of their distance from the middle.
        flip: left and right are exchanged half of the time.
    """

    shift: Annotated[int, Field(ge=0)] = 0
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    stretch: Share = 0.0
    shear: Share = 0.0
    flip: bool = False


class Consistency(Part):
    """Reward draws of a picture that agree (Jeong and Shin 2020).

    ``weight`` is that of the mean divergence KL(averaged prediction ‖ each draw's), ``entropy``
    that of the averaged prediction's entropy.
    """

    weight: Positive
    entropy: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5


class Adversary(Part):
    """Train on pictures that are attacked as they are in each step (Madry et al. 2018).

    The attack is projected gradient descent on the loss of the label, from a random start.

    Attributes:
        norm: of the attacks.
        size: their largest size, of pixel values in [0, 1].
        steps: gradient steps of each.
    """

    norm: Norm = "linf"
    size: Positive
    steps: Annotated[int, Field(ge=1)] = 7


class Denoiser(Part):
    """Train an autoencoder in front of a classifier that stays as it is.

    The classifier should find in the restored picture what it finds in the clean one: the loss is
    that of its own labels ("stability", Salman et al. 2020, "Denoised smoothing").

    Attributes:
        restoration: weight of the squared error of the restored pixels, beside the stability.
        classifier: the digest of the classifier's bundle; the training fills it in.
    """

    restoration: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    classifier: str | None = None


class Recipe(Part):
    """One training.

    Attributes:
        name: of the recipe, and of the bundle.
        version: of the bundle.
        dataset: as for ``models.data.datasets.load``.
        architecture: the network and its arguments; for a denoiser, ``autoencoder`` and its own.
        placement: where the noise is added.
        mechanism: the noise law.
        scale: σ, b or λ in units of g's output; None if the construction bound determines it.
        construction_bound: the paper's way to state the scale; None if ``scale`` states it.
        norm: the norm of the attacks: Δ is bounded from it to the mechanism's norm.
        learned_noise: learn the noise's share of each channel of g's output; see
            ``models.training.learned_noise``.
        epochs: how often each picture is seen.
        seconds: train for this long instead. The learning rate and the noise then follow the clock:
            what they do over the epochs, they do over this time, however many steps fit into it.
        batch_size: pictures in a step.
        optimiser: how steps are made.
        draws: noise draws per picture and step.
        consistency: how strongly draws that agree are rewarded, if at all.
        stability: the weight of the loss between predictions with and without noise, in place of
            the labels' loss under noise (Li et al. 2019); None for the latter.
        adversary: attack each picture before a step, if at all.
        denoiser: train an autoencoder in front of an existing classifier.
        start: the SHA-256 of the weights with which the training begins, those of another bundle
            or denoiser; the training fills it in. None for fresh ones.
        noise_warm_up: the noise, the radius of boxes and the size of attacks grow to their scale
            over this many epochs.
        natural: for intervals, the weight of the loss of the pictures themselves; the rest is that
            of the boxes around them.
        augmentation: how pictures are altered.
        seed: of everything random.
        precision: of h while training; weights and g stay float32. None chooses the format in which
            a step is faster on the machine; the bundle records it.
        channels_last: use the memory layout that suits convolutions on CPUs.
        held_out: this many pictures are not used to train, but certified after each epoch, with few
            draws, to show the progress.
        threads: of the CPU. With the same seed, threads and precision, a training can be repeated
            bit for bit on the same machine.
    """

    name: Name
    version: Version = "1"
    dataset: str
    architecture: Architecture
    placement: str = "image"
    mechanism: Mechanism = "gaussian"
    scale: Positive | None = None
    construction_bound: ConstructionBound | None = None
    norm: Norm = "l2"
    learned_noise: bool = False
    epochs: Annotated[int, Field(ge=1)]
    seconds: Positive | None = None
    batch_size: Annotated[int, Field(ge=1)] = 256
    optimiser: Optimiser = Optimiser()
    draws: Annotated[int, Field(ge=1)] = 1
    consistency: Consistency | None = None
    stability: Positive | None = None
    adversary: Adversary | None = None
    denoiser: Denoiser | None = None
    start: str | None = None
    noise_warm_up: Annotated[int, Field(ge=0)] = 0
    natural: Share = 0.25
    augmentation: Augmentation = Augmentation()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Precision | None = None
    channels_last: bool = False
    held_out: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.scale is None) == (self.construction_bound is None):
            raise ValueError("give either scale or construction_bound")
        if self.mechanism == "split":
            if self.scale is None or self.denoiser or self.placement != IMAGE or self.norm != "l1":
                raise ValueError(
                    "split noise has a scale, is of the image and in l1, and for a whole network"
                )
            count_draws(self.scale)
        alone = self.architecture.name == UNET
        added = self.mechanism not in ("split", "interval")
        if alone and (self.scale is None or self.placement != IMAGE or not added):
            raise ValueError("a denoiser by itself is for noise of the image, with a scale")
        if self.adversary and (self.denoiser or alone):
            raise ValueError("a denoiser is not trained on attacked pictures")
        if self.learned_noise and self.placement == IMAGE:
            raise ValueError(
                "learned noise is after a layer: in the image certificates count its least share, "
                "so that it cannot pay; give another placement, such as layer1"
            )
        if self.mechanism == "interval":
            if (
                self.scale is None
                or self.denoiser
                or self.placement != IMAGE
                or self.norm != "linf"
            ):
                raise ValueError(
                    "intervals have a scale, are of the image and in linf, and for a whole network"
                )
            if self.draws > 1 or self.adversary:
                raise ValueError(
                    "intervals have neither noise nor attacks: a picture has one box in a step"
                )
            largest_radius(self.scale)
        if LAWS[self.mechanism].discrete and (
            self.scale is None or self.placement != IMAGE or self.norm != "l1"
        ):
            raise ValueError(
                f"{self.mechanism} noise has a scale, is of the image and in l1: expected the "
                "placement image and the norm l1"
            )
        if self.held_out and self.scale is not None and self.scale <= NO_NOISE:
            raise ValueError(
                "held-out pictures are certified after each epoch, and nothing is certified "
                "without noise: omit held_out"
            )
        other = self.consistency or self.denoiser or self.learned_noise
        if self.stability is not None and (other or alone or not added):
            raise ValueError(
                "stability is for added noise that is not learned, for a whole network, and "
                "without consistency"
            )
        if self.consistency and self.draws < 2:
            raise ValueError("consistency needs at least 2 draws per picture")
        return self

    def changed(self, **changes: Any) -> "Recipe":
        """Return this recipe with other values, checked.

        Raises:
            ValueError: a value is not allowed.
        """
        try:
            return Recipe.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "recipe"
            given = f", not {first['input']!r}" if first["loc"] else ""
            raise ValueError(f"{field}: {first['msg']}{given}") from None

    def noise_scale(self, sensitivity: float) -> float:
        """Return the scale of the noise if g's Δ is ``sensitivity``.

        Raises:
            ValueError: the proof does not cover this construction bound.
        """
        bound = self.construction_bound
        if bound is None:
            return cast(float, self.scale)
        return construction_scale(
            self.mechanism, bound.size, bound.epsilon, bound.delta, sensitivity
        )


def find_recipe(name: str) -> Recipe:
    """Return the recipe named ``name``.

    Raises:
        ValueError: there is none.
    """
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    known = [recipe.name for recipe in RECIPES]
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"no recipe {name!r}; known: {', '.join(known)}{hint}")


def without_noise(recipe: Recipe) -> Recipe:
    """Return the recipe of the same network without noise, and without everything for noise.

    Raises:
        ValueError: it is a denoiser's recipe.
    """
    if recipe.denoiser or recipe.architecture.name == UNET:
        raise ValueError(
            f"recipe {recipe.name} trains a denoiser, which needs noise; the baseline "
            "is the bundle of the classifier behind it"
        )
    return recipe.changed(
        name=f"{recipe.name}-undefended",
        placement="image",
        mechanism="gaussian",
        norm="l2",
        scale=NO_NOISE,
        construction_bound=None,
        draws=1,
        learned_noise=False,
        consistency=None,
        stability=None,
        noise_warm_up=0,
        held_out=None,
    )


_MNIST = Recipe(
    name="mnist-cnn",
    dataset="mnist",
    architecture=Architecture(
        name="strided-cnn", arguments={"channels": [32, 64], "depth": 4, "hidden": 256}
    ),
    scale=0.55,
    epochs=24,
    draws=2,
    consistency=Consistency(weight=10.0),
    noise_warm_up=2,
    channels_last=True,
)

_CIFAR10 = Recipe(
    name="cifar10-resnet",
    dataset="cifar10",
    architecture=Architecture(name="fast-resnet", arguments={"channels": [24, 48, 96, 192]}),
    scale=0.25,
    epochs=40,
    batch_size=64,
    optimiser=Optimiser(learning_rate=2e-3, weight_decay=5e-2),
    draws=2,
    consistency=Consistency(weight=5.0),
    noise_warm_up=1,
    augmentation=Augmentation(shift=3, flip=True),
    channels_last=True,
)

# Members of its family begin with its weights.
_CIFAR10_AGAIN = _CIFAR10.changed(
    optimiser=Optimiser(learning_rate=1e-3, weight_decay=5e-2), noise_warm_up=0
)

_CIFAR10_SPLIT = _CIFAR10.changed(
    name="cifar10-split",
    mechanism="split",
    norm="l1",
    scale=3.0,
    epochs=14,
    noise_warm_up=0,
)

_SPLIT = _MNIST.changed(
    name="mnist-split",
    mechanism="split",
    norm="l1",
    scale=2.0,
    epochs=30,
    consistency=Consistency(weight=5.0),
    noise_warm_up=0,
    augmentation=Augmentation(rotation=8, stretch=0.08, shear=0.08),
)

# Without noise: bounds of h over boxes of this radius.
_LINF = Recipe(
    name="mnist-linf",
    dataset="mnist",
    architecture=Architecture(name="cnn", arguments={"channels": [16, 32], "hidden": 128}),
    mechanism="interval",
    norm="linf",
    scale=0.12,
    epochs=30,
    batch_size=128,
    optimiser=Optimiser(learning_rate=5e-3, weight_decay=0.0, warm_up=0.2),
    noise_warm_up=10,
    augmentation=Augmentation(rotation=8, stretch=0.08, shear=0.08),
    precision="float32",
)

_UNET = {"channels": [32, 64, 128, 128], "blocks": [1, 1, 1, 2]}

# A denoiser of photographs that is tuned to a classifier.
_TUNED = Recipe(
    name="photo-tuned",
    dataset=PHOTOGRAPHS,
    architecture=Architecture(name=AUTOENCODER, arguments={"network": UNET, **_UNET}),
    scale=0.25,
    epochs=40,
    batch_size=16,
    optimiser=Optimiser(learning_rate=3e-4, weight_decay=0.0, warm_up=0.2),
    draws=2,
    consistency=Consistency(weight=2.0),
    denoiser=Denoiser(restoration=10.0),
    augmentation=Augmentation(flip=True),
    channels_last=True,
    held_out=20,
)

# The baseline that Lécuyer et al. compare with, on our networks: without noise or certificates.
# Attacks grow: under those of full size from the start, this network learns nothing at all.
_MNIST_MADRY = without_noise(_MNIST).changed(
    name="mnist-madry",
    adversary=Adversary(size=0.3),
    batch_size=64,
    optimiser=Optimiser(learning_rate=1e-3),
    epochs=8,
    noise_warm_up=3,
)
_CIFAR10_MADRY = without_noise(_CIFAR10).changed(
    name="cifar10-madry", adversary=Adversary(size=8 / 255), epochs=10, noise_warm_up=2
)

RECIPES = (
    _MNIST,
    _MNIST_MADRY,
    _CIFAR10_MADRY,
    _MNIST.changed(name="mnist-cnn-025", scale=0.25),
    _MNIST.changed(name="mnist-cnn-100", scale=1.0),
    # Stability training (Li et al. 2019), on our network.
    _MNIST.changed(name="mnist-stability", draws=1, consistency=None, stability=1.0),
    _MNIST.changed(
        name="mnist-cnn-l1",
        mechanism="laplace",
        norm="l1",
        scale=0.5,
        epochs=20,
        consistency=Consistency(weight=5.0),
        augmentation=Augmentation(rotation=8, stretch=0.08, shear=0.08),
    ),
    _MNIST.changed(
        name="mnist-cnn-learned", placement="layer1", learned_noise=True, epochs=4, noise_warm_up=1
    ),
    _SPLIT,
    _SPLIT.changed(name="mnist-split-wide", scale=4.0, epochs=16),  # begins with mnist-split
    _LINF,
    # Radii up to 2/255 and a little more.
    _LINF.changed(
        name="cifar10-linf",
        dataset="cifar10",
        architecture=Architecture(name="cnn", arguments={"channels": [32, 64], "hidden": 256}),
        scale=0.01,
        epochs=60,
        optimiser=Optimiser(learning_rate=2e-3, weight_decay=0.0, warm_up=0.2),
        noise_warm_up=24,
        augmentation=Augmentation(shift=3, flip=True),
    ),
    _CIFAR10,
    _CIFAR10_AGAIN.changed(
        name="cifar10-resnet-050", scale=0.5, epochs=12, consistency=Consistency(weight=10.0)
    ),
    _CIFAR10_AGAIN.changed(name="cifar10-resnet-012", scale=0.12, epochs=10),
    _CIFAR10_SPLIT,
    _CIFAR10_SPLIT.changed(name="cifar10-split-narrow", scale=1.5, epochs=8),  # begins with it
    _CIFAR10.changed(
        name="svhn-resnet",
        dataset="svhn",
        epochs=20,
        augmentation=Augmentation(shift=2),
        held_out=100,
    ),
    _CIFAR10.changed(
        name="cifar100-resnet",
        dataset="cifar100",
        architecture=Architecture(name="wide-resnet", arguments={"depth": 16, "width": 4}),
        epochs=60,
        noise_warm_up=2,
        held_out=100,
    ),
    # The largest network that Lécuyer et al. train themselves: for a GPU.
    _CIFAR10.changed(
        name="cifar10-wide",
        architecture=Architecture(name="wide-resnet", arguments={"depth": 28, "width": 10}),
        epochs=60,
        held_out=100,
    ),
    # In front of a torchvision classifier whose bundle pixeldp import made; with the paper's noise
    # for ImageNet.
    Recipe(
        name="imagenet-autoencoder",
        dataset="imagenet",
        architecture=Architecture(
            name="autoencoder", arguments={"channels": [32, 64], "strides": [2, 2], "depth": 2}
        ),
        placement="layer1",
        construction_bound=ConstructionBound(size=0.1, epsilon=1.0, delta=0.05),
        epochs=5,
        batch_size=32,
        optimiser=Optimiser(learning_rate=1e-3),
        denoiser=Denoiser(restoration=10.0),
        noise_warm_up=1,
        augmentation=Augmentation(flip=True),
        channels_last=True,
        held_out=50,
    ),
    Recipe(
        name="cifar10-denoiser",
        dataset="cifar10",
        architecture=Architecture(
            name="autoencoder",
            arguments={"channels": [48, 96], "strides": [1, 2], "depth": 4, "residual": True},
        ),
        scale=0.25,
        epochs=20,
        batch_size=64,
        optimiser=Optimiser(learning_rate=1e-3),
        denoiser=Denoiser(restoration=10.0),
        augmentation=Augmentation(shift=3, flip=True),
        channels_last=True,
        held_out=100,
    ),
    # A denoiser by itself, for any classifier of photographs.
    Recipe(
        name="photo-denoiser",
        dataset=PHOTOGRAPHS,
        architecture=Architecture(name=UNET, arguments=_UNET),
        scale=0.25,
        epochs=100,
        batch_size=32,
        optimiser=Optimiser(learning_rate=1e-3, weight_decay=0.0, warm_up=0.2),
        augmentation=Augmentation(flip=True),
        channels_last=True,
        held_out=20,
    ),
    _TUNED,
    # The same with the noise where Lécuyer et al. have it: after the autoencoder's first layer.
    _TUNED.changed(
        name="photo-first-layer",
        architecture=Architecture(
            name=AUTOENCODER, arguments={"network": UNET, "first_layer": True, **_UNET}
        ),
        placement="layer1",
    ),
    # For a quick try, and for tests: eight by eight pixels, a few seconds. Too small for measuring
    # number formats to be worthwhile.
    Recipe(
        name="digits",
        dataset="digits",
        architecture=Architecture(name="cnn", arguments={"channels": [16, 32], "hidden": 64}),
        scale=0.25,
        epochs=20,
        batch_size=100,
        optimiser=Optimiser(learning_rate=5e-3),
        augmentation=Augmentation(shift=1),
        precision="float32",
    ),
    Recipe(
        name="digits-denoiser",
        dataset="digits",
        architecture=Architecture(
            name="autoencoder",
            arguments={"channels": [32], "strides": [1], "depth": 2, "residual": True},
        ),
        scale=0.5,
        epochs=10,
        batch_size=100,
        optimiser=Optimiser(learning_rate=5e-3),
        denoiser=Denoiser(),
        precision="float32",
        held_out=50,
    ),
)
