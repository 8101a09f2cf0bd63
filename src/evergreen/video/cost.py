"""What an answer with all its evidence costs, measured in a process of its own: `python -m evergreen.video.cost`."""

import subprocess
import sys
import time
from pathlib import Path

from evergreen.memory import read_peak_mb
from evergreen.video.detection import detect
from evergreen.video.detector import Detector
from evergreen.video.metrics import DetectionCost


def measure_cost(bundle: Path, source: Path, folder: Path) -> DetectionCost:
    """Detect in a file, from the start of the program to its end; the evidence stays in `folder`."""
    start = time.monotonic()
    command = [sys.executable, "-m", "evergreen.video.cost", str(bundle), str(source), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    elapsed = time.monotonic() - start
    n_frames, seconds, peak = map(float, done.stdout.split())
    return DetectionCost(
        frames_per_second=n_frames / elapsed, seconds_per_second=elapsed / seconds, peak_memory_mb=peak
    )


def main() -> None:
    """Detect, and print the number of frames, the seconds of video, and the peak memory."""
    bundle, source, folder = map(Path, sys.argv[1:])
    detection = detect(Detector.load(bundle), source, folder)
    # Of one frame nobody knows how long it lasts.
    seconds = detection.seconds[-1] * detection.n_frames / max(detection.n_frames - 1, 1) or 1.0
    print(detection.n_frames, seconds, read_peak_mb())


if __name__ == "__main__":
    main()
