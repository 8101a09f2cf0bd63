"""The faults of tests/serving/test_faults.py in full: processes killed under load, and a long mixed load.

    make soak     # or, with tests and tests/serving in PYTHONPATH:
    python benchmarks/soak.py [--kills 100] [--minutes 30] [--only kills memory]

Kills are counted with a model made within milliseconds, since it is the server that is under test; the mixed load is
answered by the models under models/, where they have been made. Figures of a part that isn't run again stay.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from faults import kill_under_load, run_mixed_load  # type: ignore[import-not-found]
from record import save_result
from running import RunningServer  # type: ignore[import-not-found]
from tiny_text_bundle import write_bundle  # type: ignore[import-not-found]

RESULT = Path("benchmarks/results/soak.json")
TEXT, VIDEO = Path("models/text"), Path("models/video")
PARTS = ("kills", "memory")


def main() -> None:
    """Run the parts that are asked for and save their figures."""
    args = parse_args()
    figures: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    figures = {part: figures[part] for part in PARTS if part in figures}
    with tempfile.TemporaryDirectory(prefix="evergreen-soak-") as folder:
        if "kills" in args.only:
            figures["kills"] = measure_kills(Path(folder, "kills"), args.kills)
        if "memory" in args.only:
            figures["memory"] = measure_memory(Path(folder, "memory"), args.minutes)
    save_result(RESULT, ["litserve", "uvicorn", "onnxruntime", "sqlalchemy"], **figures)
    print(json.dumps(figures, indent=2))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=30, help="of mixed load")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    return parser.parse_args()


def measure_kills(folder: Path, kills: int) -> dict[str, Any]:
    """Kill processes under load and count what became of the requests."""
    bundle = write_bundle(folder / "text")
    server = RunningServer(folder, bundle).start()
    try:
        result = kill_under_load(server, kills)
    finally:
        if server.process.poll() is None:
            server.stop()
    silence = {
        victim: {"p50": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)}
        for victim, seconds in result.silence.items()
        if seconds
    }
    audit = asdict(result.audit)
    return {"kills": result.kills, **audit, "requests_failed": result.n_failed, "seconds_without_answer": silence}


def measure_memory(folder: Path, minutes: float) -> dict[str, Any]:
    """Run the mixed load and follow the memory that it takes."""
    bundle = TEXT.resolve() if TEXT.exists() else write_bundle(folder / "text")
    has_video = VIDEO.exists()
    server = RunningServer(folder, bundle, VIDEO.resolve() if has_video else None).start()
    try:
        video = write_scene(folder / "scene.mp4") if has_video else None
        result = run_mixed_load(server, minutes, video)
    finally:
        if server.process.poll() is None:
            server.stop()
    return {"minutes": minutes, "text_model": bundle.name, "has_video": has_video, **asdict(result)}


def write_scene(path: Path, n_frames: int = 300) -> Path:
    """Write a short video of a bright square that walks to and fro."""
    import numpy as np  # noqa: PLC0415 - only where there is a model for videos
    from video_file import write_video  # noqa: PLC0415

    def draw(left: int) -> "np.typing.NDArray[np.uint8]":
        image = np.full((240, 320, 3), 90, np.uint8)
        image[100:140, left : left + 40] = 220
        return image

    columns = cycle([*range(0, 280, 4), *range(280, 0, -4)])
    write_video(path, map(draw, islice(columns, n_frames)), 25)
    return path


if __name__ == "__main__":
    main()
