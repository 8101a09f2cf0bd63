"""How much memory this process has used."""

import re
import resource
import sys
from pathlib import Path


def read_peak_mb() -> float:
    """Most memory that this process held at a time, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage(), which counts what the process held before it became this program.
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if match:
            return int(match[1]) / 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
