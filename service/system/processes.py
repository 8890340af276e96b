"""What the system says of other processes."""

from pathlib import Path


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, as by SIGSTOP, and the system says so."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in "Tt"
