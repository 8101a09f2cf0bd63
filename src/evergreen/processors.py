"""How many processors there are to use."""

import math
import os
import sys
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def count_processors(cgroup: Path = CGROUP) -> int:
    """How many processors this process may use: those of the machine, less by affinity or a container's limit."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, _read_limit(cgroup)))


def _read_limit(cgroup: Path) -> int:
    with suppress(OSError, ValueError):  # cgroup v2: "max 100000" or "150000 100000"
        quota, period = (cgroup / "cpu.max").read_text().split()
        return sys.maxsize if quota == "max" else math.ceil(int(quota) / int(period))
    with suppress(OSError, ValueError):  # v1: -1 without a limit
        quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else sys.maxsize
    return sys.maxsize
