"""Write the service's bill of materials in CycloneDX's JSON.

    python -m tools.sbom [FOLDER]

It lists the base image of the container image, each locked package in it with the SHA-256 of its
files, and each bundle of the zoo with its digests. Packages that only some builds of PyTorch need
are optional in it. It is checked against CycloneDX's schema before it is written.
"""

import re
import sys
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from models.bundle import DENOISER, MANIFEST, Bundle, describe
from models.denoiser import Denoiser, describe_denoiser
from tools.lock import BASE, ROOT, Pin, read
from tools.release import versions

# The layers of the image.
LAYERS = (*BASE, "tracing", "openvino")
OPTIONAL = ("cuda",)
FROM = re.compile(
    r"^FROM (?P<name>\S+):(?P<tag>\S+)@sha256:(?P<digest>[0-9a-f]{64})$", re.MULTILINE
)


def bill(root: Path) -> str:
    """Return the bill of materials of the project in ``root``, as JSON.

    Raises:
        ValueError: a lock or a bundle cannot be read.
    """
    version = versions(root)["pyproject.toml"]
    bom = Bom()
    licenses = [LicenseFactory().make_from_string("Apache-2.0")]
    bom.metadata.component = Component(
        name="pixeldp",
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=f"pixeldp@{version}",
        purl=PackageURL("pypi", None, "pixeldp", version),
        licenses=licenses,
    )
    parts = [
        _package(pin, layer in OPTIONAL)
        for layer in LAYERS
        for pin in read(root / f"locks/{layer}.txt").values()
    ]
    parts.append(_image((root / "Dockerfile").read_text(encoding="utf-8")))
    zoo = root / "models/zoo"
    parts += [_model(describe(path.parent)) for path in sorted(zoo.glob(f"*/{MANIFEST}"))]
    parts += [_model(describe_denoiser(path.parent)) for path in sorted(zoo.glob(f"*/{DENOISER}"))]
    bom.components.update(parts)
    bom.register_dependency(bom.metadata.component, parts)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        raise ValueError(f"the bill of materials breaks CycloneDX's schema: {wrong}")
    return text + "\n"


def _image(dockerfile: str) -> Component:
    match = FROM.search(dockerfile)
    if match is None:
        raise ValueError("Dockerfile names no image by its digest")
    name, tag, digest = match.groups()
    return Component(
        name=name,
        version=tag,
        type=ComponentType.CONTAINER,
        bom_ref=f"image:{name}@sha256:{digest}",
        purl=PackageURL("docker", None, name, f"sha256:{digest}", {"tag": tag}),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )


def _package(pin: Pin, optional: bool) -> Component:
    purl = PackageURL("pypi", None, pin.name, pin.version)
    marker = pin.marker.removeprefix(" ; ")
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        scope=ComponentScope.OPTIONAL if optional else ComponentScope.REQUIRED,
        # Of each file of the release that may be installed, because machines differ.
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(purl.to_string()),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in pin.hashes],
            )
        ],
        properties=[Property(name="pixeldp:marker", value=marker)] if marker else [],
    )


def _model(found: Bundle | Denoiser) -> Component:
    manifest, digest = found.manifest, found.digest.removeprefix("sha256:")
    return Component(
        name=manifest.name,
        version=manifest.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{manifest.name}@{manifest.version}",
        # That of the description, which states the weights'; answers name a model's.
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        properties=[Property(name="pixeldp:weights-sha256", value=manifest.weights.sha256)],
    )


def write(root: Path, folder: Path) -> Path:
    """Write the bill of materials into an existing folder, and return its path."""
    path = folder / f"pixeldp-{versions(root)['pyproject.toml']}.cdx.json"
    path.write_text(bill(root), encoding="utf-8")
    return path


if __name__ == "__main__":
    print(write(ROOT, Path(sys.argv[1]) if sys.argv[1:] else ROOT / "dist"))
