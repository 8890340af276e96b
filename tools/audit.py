"""Check the pinned packages for known vulnerabilities, if the database can be reached.

    python -m tools.audit [FILE]

Exit status 1 says that a pinned package is known to be vulnerable. A database that cannot be
reached, or that does not know the packages (as with a mirror of the index), is reported on standard
error but is not a failure: `make check` must work without a network.
"""

import json
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "constraints.txt"


def main(pins: Path) -> int:
    """Audit pins and return the exit status."""
    done = subprocess.run(  # noqa: S603 - a fixed command line
        [
            *(sys.executable, "-P", "-m", "pip_audit", "--requirement", str(pins)),
            *("--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"),
        ],
        capture_output=True,
        text=True,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        # It prints a report whenever it has one, so it failed before that.
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"audit: NOT DONE, the database cannot be reached: {reason}", file=sys.stderr)
        return 0
    known = [package for package in packages if "vulns" in package]
    unknown = [package["name"] for package in packages if "vulns" not in package]
    vulnerable = [package for package in known if package["vulns"]]
    for package in vulnerable:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "none yet"
            print(f"audit: {package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    if not known:
        print("audit: NOT DONE, the database knows none of the packages", file=sys.stderr)
    elif unknown:
        print(f"audit: not in the database: {', '.join(unknown)}", file=sys.stderr)
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else PINS))
