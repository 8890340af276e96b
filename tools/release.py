"""Set the project's version in every place, and give it a section in the changelog.

    python -m tools.release VERSION

It only changes files: RELEASE.md says what to do before and after.
"""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The places of the version, once in each. Everything else asks the installed package.
PLACES = {
    "pyproject.toml": r'(?m)^(version = ")[^"]+(")$',
    "client/pyproject.toml": r'(?m)^(version = ")[^"]+(")$',
    "deploy/kubernetes/kustomization.yaml": r"(?m)^(    newTag: )\S+()$",
}
NUMBER = re.compile(r"\d+\.\d+\.\d+")
UNRELEASED = "## [Unreleased]\n"


def versions(root: Path) -> dict[str, str]:
    """Return the version that each place has."""
    found = {}
    for name, pattern in PLACES.items():
        [match] = re.finditer(pattern, (root / name).read_text(encoding="utf-8"))
        found[name] = match[0].removeprefix(match[1]).removesuffix(match[2])
    return found


def release(root: Path, version: str, day: str) -> None:
    """Set the version of the project in ``root``, released on ``day`` (YYYY-MM-DD).

    Raises:
        ValueError: it is not a version, or the changelog has nothing new or already has that
            version.
    """
    if not NUMBER.fullmatch(version):
        raise ValueError(f"{version!r} is not a version; expected three numbers, such as 1.2.3")
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    if f"## [{version}]" in text:
        raise ValueError(f"CHANGELOG.md already has a section {version}")
    before, _, after = text.partition(UNRELEASED)
    if not after.partition("\n## [")[0].strip():
        raise ValueError("CHANGELOG.md has nothing in its section Unreleased")
    changelog.write_text(f"{before}{UNRELEASED}\n## [{version}] - {day}\n{after}", encoding="utf-8")
    for name, pattern in PLACES.items():
        old = (root / name).read_text(encoding="utf-8")
        new = re.sub(pattern, rf"\g<1>{version}\g<2>", old)
        (root / name).write_text(new, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("release: give the version: python -m tools.release 1.2.3")
    try:
        release(ROOT, sys.argv[1], datetime.now(UTC).date().isoformat())
    except ValueError as error:
        sys.exit(f"release: {error}")
