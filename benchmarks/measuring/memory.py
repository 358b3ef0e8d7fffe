"""The most memory that a process has held."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory_mib() -> float | None:
    """Most resident memory of this process so far, in MiB; None where the system does not tell.

    On Linux `ru_maxrss` would be at least that of the process that started this one; VmHWM is not.
    """
    if _STATUS.exists():
        kib = [int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        return kib[0] / 1024 if kib else None
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
