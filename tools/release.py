"""Give the project a version, in every place that has it, and a section of the changelog.

    python -m tools.release VERSION

It changes files and nothing else: RELEASE.md says what comes before and after.
"""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Where a version stands, each once. All else asks the installed package for it.
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
        ValueError: it is no version, or the changelog has nothing new or has that version already.
    """
    if not NUMBER.fullmatch(version):
        raise ValueError(f"{version!r} is no version; expected three numbers, as 1.2.3")
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    if f"## [{version}]" in text:
        raise ValueError(f"CHANGELOG.md has a section {version} already")
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
        sys.exit("release: say the version: python -m tools.release 1.2.3")
    try:
        release(ROOT, sys.argv[1], datetime.now(UTC).date().isoformat())
    except ValueError as error:
        sys.exit(f"release: {error}")
