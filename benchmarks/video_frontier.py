"""Speed of detection against frame AUC: noise levels and size of frames; then threads and batches.

The AUC is that of one fold of `ped2.py`, whose models are used where they are there. Speed is that of ONNX Runtime,
from the file to the scores, the settings in turns:
python benchmarks/video_frontier.py [--fold 0] [--repeats 3]
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from ped2 import COMMON, DATA, PACKAGES, RESULTS, SETTINGS, WORK, Fold, find_folder, make_params, measure_auc, run_fold
from record import save_result

from evergreen.params import Params
from evergreen.plots import COLORS, save_figure
from evergreen.video.bundle import CNN_LSTM
from evergreen.video.clips import Clip
from evergreen.video.detector import judge_windows, load_judge, load_reconstructor

N_FRAMES = 64


@dataclass(frozen=True)
class Setting:
    """What is changed of the two-core setting; and the source in `ped2_sources.py` that its errors are."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    source: str = "diffusion"


TRAINED = [
    Setting("three levels"),
    Setting("one level", {"reconstruction.timesteps": [40]}, "timestep_second"),
    Setting("smaller frames", {"clips.height": 80, "clips.width": 120, "cnn_lstm.block": 8}),
]
"""The first is the default."""
RUNTIME = (2, 8)
"""Threads, and frames in a batch, of every setting."""
RUNTIMES = [(threads, batch) for threads in (1, 2) for batch in (1, 4, 8, 16)]
"""Of the default."""


def find_models(setting: Setting, number: int) -> tuple[Params, Path]:
    """The parameters to train with, and the fold's folder: a source that another one holds has none of its own."""
    changes = {} if setting.source != "diffusion" else setting.changes
    params = make_params(COMMON | SETTINGS["two_cores"] | changes, seed=0)
    return params, find_folder(WORK / "two_cores", params, number)


def measure_accuracy(setting: Setting, number: int) -> dict[str, float]:
    """Frame AUC of the fold, by judge; trains what is not there."""
    params, folder = find_models(setting, number)
    result = run_fold(Fold(number, params, folder, ["diffusion", setting.source], judge_seeds=1))
    return {judge: measure_auc([result], f"{setting.source}/{judge}") for judge in ("smoothed", "cnn_lstm_0")}


def measure_speed(setting: Setting, number: int, threads: int, batch: int) -> float:
    """Frames per second from the file to the scores, models loaded."""
    _, folder = find_models(setting, number)
    params = make_params(COMMON | SETTINGS["two_cores"] | setting.changes, seed=0)
    reconstruction = params.reconstruction.model_copy(update={"batch_size": batch})
    reconstructor = load_reconstructor(
        folder / "diffusion/weights", params.diffusion.context, None, reconstruction, threads
    )
    judge = load_judge(folder / setting.source / "cnn_lstm_0" / CNN_LSTM, threads)

    def read() -> Iterator[NDArray[np.uint8]]:
        yield from (frame.image for frame in islice(Clip(DATA / "test_01.mp4", params.clips).frames(), N_FRAMES))

    start = time.perf_counter()
    errors = ((None, error) for error in reconstructor(read()))
    judged = list(judge_windows(errors, judge, params.clips.window, params.clips.stride))
    return len(judged) / (time.perf_counter() - start)


def main() -> None:
    """Train, measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "video_frontier.json")
    args = parser.parse_args()
    accuracy = {setting.name: measure_accuracy(setting, args.fold) for setting in TRAINED}
    points = [(setting, *RUNTIME) for setting in TRAINED[1:]] + [(TRAINED[0], *runtime) for runtime in RUNTIMES]
    speeds: list[list[float]] = [[] for _ in points]
    for _ in range(args.repeats):
        for (setting, threads, batch), values in zip(points, speeds, strict=True):
            values.append(measure_speed(setting, args.fold, threads, batch))
    rows = [
        {
            "setting": setting.name,
            "threads": threads,
            "batch": batch,
            "frames_per_second": float(np.median(values)),
            "frame_auc": accuracy[setting.name],
        }
        for (setting, threads, batch), values in zip(points, speeds, strict=True)
    ]
    save_result(args.out, PACKAGES, fold=args.fold, repeats=args.repeats, n_frames=N_FRAMES, points=rows)
    plot_frontier(rows, args.out.with_suffix(".png"))
    for row in rows:
        print(row)


def plot_frontier(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the picture: frame AUC by speed, and speed by threads and batch."""
    figure, (frontier, runtimes) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for row in (row for row in rows if (row["threads"], row["batch"]) == RUNTIME):
        point = (row["frames_per_second"], row["frame_auc"]["cnn_lstm_0"])
        frontier.plot(*point, "o", color=COLORS[0])
        name = f"{row['setting']} (default)" if row["setting"] == TRAINED[0].name else row["setting"]
        frontier.annotate(name, point, xytext=(6, 6), textcoords="offset points")
    frontier.margins(0.3)
    frontier.set_xlabel("frames per second")
    frontier.set_ylabel("frame AUC of one fold")
    frontier.set_title("What is judged")
    for (threads, name), color in zip({1: "one thread", 2: "two threads"}.items(), COLORS, strict=False):
        points = [row for row in rows if row["setting"] == TRAINED[0].name and row["threads"] == threads]
        batches, speeds = [row["batch"] for row in points], [row["frames_per_second"] for row in points]
        runtimes.plot(batches, speeds, "o-", color=color, label=name)
    runtimes.set_ylim(bottom=0)
    runtimes.set_xlabel("frames in a batch")
    runtimes.set_ylabel("frames per second")
    runtimes.set_title(f"Threads and batches, {TRAINED[0].name}")
    runtimes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
