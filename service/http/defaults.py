"""Settings compared with the models: can a request without options be answered at all?"""

from models.asking import ask
from models.bundle import Bundle
from models.certification.reach import draws_needed, reachable_size
from models.picture_terms import assemble_terms
from service.settings import Settings


class UselessDefaultsError(ValueError):
    """With these defaults no request without options could be answered."""


def check_defaults(settings: Settings, bundle: Bundle) -> None:
    """Check that pictures of the model's own size are accepted, and can be certified.

    Raises:
        UselessDefaultsError: they cannot; says which settings to change.
    """
    manifest = bundle.manifest
    _, height, width = manifest.input.shape
    if height * width > settings.max_pixels:
        raise UselessDefaultsError(
            f"PIXELDP_MAX_PIXELS is {settings.max_pixels:,}, but {manifest.name} needs pictures of "
            f"{width} x {height}, which have {width * height:,} pixels"
        )
    terms = assemble_terms(manifest)
    question = ask(manifest, None, settings.max_draws, usual=settings.confidence)
    labels = len(manifest.labels)
    if reachable_size(question, terms, manifest.scoring, labels) > 0:
        return
    needed = draws_needed(question, terms, manifest.scoring, labels)
    takes = "no number of draws suffices" if needed is None else f"it takes at least {needed:,}"
    raise UselessDefaultsError(
        f"PIXELDP_CONFIDENCE is {settings.confidence} and PIXELDP_MAX_DRAWS is "
        f"{settings.max_draws:,}, with which nothing can be certified by {manifest.name}: {takes}"
    )
