"""How well the detectors of `ped2.py` do on worse pictures of the test clips, at the thresholds that they have.

Run `python benchmarks/ped2.py` first: its models and calibrations are used.
python benchmarks/video_robustness.py [--folds 0 1 2] [--conditions half_resolution …]
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from ped2 import (
    COMMON,
    N_FOLDS,
    PACKAGES,
    RESULTS,
    SETTINGS,
    WORK,
    FoldResult,
    find_folder,
    find_result,
    judge_file,
    load_judges,
    make_params,
    plan_fold,
    pool_auc,
)
from record import save_result
from video_file import write_video

from evergreen.params import Params
from evergreen.progress import show_progress
from evergreen.video.extraction import load_trained
from evergreen.video.features import write_features
from evergreen.video.sequences import Part, read_sequences

Pictures = NDArray[np.uint8]
"""[frames, height, width, channels]."""
JUDGES = ("smoothed", "cnn_lstm_0")
FPS = 10
CLEAR = {"crf": "10"}


def darken(pictures: Pictures) -> Pictures:
    """Lose three tenths of the light, evenly from the first frame to the last."""
    gains = np.linspace(1, 0.7, len(pictures))[:, None, None, None]
    return (pictures * gains).astype(np.uint8)


def halve(pictures: Pictures) -> Pictures:
    """Half the width and height."""
    height, width = pictures.shape[1] // 2, pictures.shape[2] // 2
    return np.stack([cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in pictures])


def shake(pixels: int) -> Callable[[Pictures], Pictures]:
    """Move each frame by up to so many pixels in both directions."""

    def move(pictures: Pictures) -> Pictures:
        rng = np.random.default_rng(0)
        height, width = pictures.shape[1:3]
        padded = np.pad(pictures, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
        offsets = rng.integers(0, 2 * pixels + 1, (len(pictures), 2))
        return np.stack([p[y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)])

    return move


CONDITIONS: dict[str, tuple[Callable[[Pictures], Pictures], dict[str, str]]] = {
    "as_recorded": (lambda pictures: pictures, CLEAR),
    "low_bit_rate": (lambda pictures: pictures, {"crf": "40"}),
    "half_resolution": (halve, CLEAR),
    "brightness_drift": (darken, CLEAR),
    "shake_1_pixel": (shake(1), CLEAR),
    "shake_2_pixels": (shake(2), CLEAR),
}


def degrade(path: Path, condition: str, target: Path) -> int:
    """Write a video as the condition has it; return its bits per second."""
    change, options = CONDITIONS[condition]
    with av.open(str(path)) as container:
        pictures = change(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
    write_video(target, pictures, FPS, **options)
    return round(8 * target.stat().st_size / (len(pictures) / FPS))


@dataclass(frozen=True)
class ScoredClip:
    """A clip by one judge: which frames are anomalous, their calibrated scores, and which reach the threshold."""

    judge: str
    mask: NDArray[np.bool_]
    y_proba: NDArray[np.float64]
    alarms: NDArray[np.bool_]


class TrainedFold:
    """The models of a fold that `ped2.py` trained, with their calibrations."""

    def __init__(self, number: int, params: Params) -> None:
        folder = find_folder(WORK / "two_cores", params, number)
        self.number, self.params = number, params
        self.parts = [part for part in plan_fold(number, params) if part.split == "test"]
        self.reconstructor = load_trained(folder / "diffusion/weights", params)
        self.judges = load_judges(folder / "diffusion", params)
        self.calibrations = FoldResult.load(find_result(folder, params)).calibrations

    def score(self, condition: str) -> tuple[list[ScoredClip], list[int]]:
        """The clips of the test by each judge, and their bits per second."""
        scored, rates, params = [], [], self.params
        with TemporaryDirectory() as folder:
            parts: list[Part] = []
            for part in self.parts:
                target = Path(folder, part.clip.path.name)
                rates.append(degrade(part.clip.path, condition, target))
                parts.append(replace(part, clip=replace(part.clip, path=target)))
            sequences = read_sequences(parts, params.video, params.clips, params.diffusion.context, ["test"])
            maps = Path(folder, "maps.h5")
            write_features(show_progress(sequences, f"{condition}, fold {self.number}"), self.reconstructor, maps)
            for judge in JUDGES:
                calibration = self.calibrations[f"diffusion/{judge}"]
                for sequence, logits in judge_file(maps, "test", self.judges[judge], params.clips):
                    y_proba = np.array([calibration(logit) for logit in logits])
                    scored.append(ScoredClip(judge, sequence.mask, y_proba, y_proba >= calibration.threshold))
        return scored, rates


def summarize(scored: list[ScoredClip]) -> dict[str, dict[str, float]]:
    """Pooled frame AUC, and the fractions of the frames of each class that alarm, by judge."""
    rows = {}
    for judge in JUDGES:
        clips = [clip for clip in scored if clip.judge == judge]
        mask, alarms = (np.concatenate(column) for column in zip(*((c.mask, c.alarms) for c in clips), strict=True))
        rows[judge] = {
            "frame_auc": pool_auc([(clip.mask.astype(float), clip.y_proba) for clip in clips]),
            "alarming_anomalous_frames": float(alarms[mask].mean()),
            "alarming_normal_frames": float(alarms[~mask].mean()),
        }
    return rows


def main() -> None:
    """Measure each condition over the folds, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(N_FOLDS)))
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--out", type=Path, default=RESULTS / "video_robustness.json")
    args = parser.parse_args()
    params = make_params(COMMON | SETTINGS["two_cores"], seed=0)
    folds = [TrainedFold(number, params) for number in args.folds]
    rows = []
    for condition in args.conditions:
        scored = [fold.score(condition) for fold in folds]
        rates = [rate for _, part in scored for rate in part]
        row: dict[str, Any] = {"condition": condition, "mean_bits_per_second": float(np.mean(rates))}
        row |= summarize([clip for clips, _ in scored for clip in clips])
        rows.append(row)
        print(row, flush=True)
        save_result(args.out, [*PACKAGES, "av"], folds=args.folds, conditions=rows)


if __name__ == "__main__":
    main()
