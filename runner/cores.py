"""The processor cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Number of cores in this process's affinity mask; of all cores where the system has no such masks."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
