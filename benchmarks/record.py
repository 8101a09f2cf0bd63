"""What every benchmark writes: its figures, with the command, date, machine and package versions behind them."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def save_result(path: Path, packages: Sequence[str], **figures: Any) -> None:
    """Write `figures` as JSON below what produced them."""
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {_describe_processor()}",
        "packages": {name: version(name) for name in packages},
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def _describe_processor() -> str:
    """Which integer instructions there are decides what int8 gains."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return "AVX-512 VNNI" if "avx512_vnni" in flags else "AVX-VNNI" if "avx_vnni" in flags else "no VNNI"
