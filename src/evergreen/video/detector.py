"""The only place that turns a video into an answer, in evaluation, on the command line and in serving alike."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from evergreen.bundle import BundleError
from evergreen.onnx_session import load_session
from evergreen.params import ReconstructionParams
from evergreen.video.bundle import CNN_LSTM, CNN_LSTM_CAUSAL, DENOISER, SCHEDULE, Bundle, Calibrations
from evergreen.video.clips import Clip, Frame, slide
from evergreen.video.reconstruction import Reconstructor

Floats = NDArray[np.float32]
Item = TypeVar("Item")
Judge = Callable[[Floats], tuple[Floats, Floats]]
"""Logits of frames, [windows, frames], and of windows, [windows], from errors [windows, frames, timesteps, height,
width]."""


@dataclass(frozen=True)
class ScoredFrame:
    """A frame, its error maps, [timesteps, height, width], and how likely it and what is around it are anomalous."""

    frame: Frame
    errors: Floats
    y_proba: float
    """Of the frame, calibrated."""
    clip_proba: float
    """The highest of the windows that hold the frame, calibrated as a clip."""
    is_anomalous: bool
    """Whether both reach their thresholds."""


class Detector:
    """A bundle, ready to detect; a window gets the same score alone and in any batch.

    Args:
        bundle: a verified bundle.
        num_threads: processor threads; None leaves the choice to ONNX Runtime.

    Raises:
        BundleError: when its parts do not fit together.

    Example:
        >>> detector = Detector.load("models/video")
        >>> clip = Clip("bikes.mp4", detector.manifest.clips)
        >>> any(scored.is_anomalous for scored in detector.score(clip.frames()))
        False
    """

    def __init__(self, bundle: Bundle, num_threads: int | None = None) -> None:
        self.manifest = manifest = bundle.manifest
        self.bundle = bundle
        self._reconstruct = load_reconstructor(
            bundle.folder,
            manifest.context,
            manifest.clips.cut_threshold,
            manifest.reconstruction,
            num_threads,
        )
        self._judge = load_judge(bundle.folder / CNN_LSTM, num_threads)
        self._judge_causal = load_judge(bundle.folder / CNN_LSTM_CAUSAL, num_threads)

    @classmethod
    def load(cls, folder: Path | str = "models/video", num_threads: int | None = None) -> Self:
        """Verify the bundle in a folder and make it ready; see the class for `num_threads`.

        Raises:
            BundleError: when the bundle is damaged or incomplete.
        """
        return cls(Bundle.load(folder), num_threads)

    def open(self, source: str | Path, preview: bool = False) -> Clip:
        """Open a video as the model wants it; see `Clip`."""
        return Clip(source, self.manifest.clips, preview)

    def score(self, frames: Iterable[Frame]) -> Iterator[ScoredFrame]:
        """Score the frames of a file, in their order and in constant memory; what follows a frame counts as well."""
        clips = self.manifest.clips
        yield from self._calibrate(
            judge_windows(self._pair(frames), self._judge, clips.window, clips.stride), self.manifest.offline
        )

    def watch(self, frames: Iterable[Frame]) -> Iterator[ScoredFrame]:
        """Score the frames of a stream as they come, each from itself and what was before."""
        paired = self._pair(frames, stream=True)
        yield from self._calibrate(
            judge_stream(paired, self._judge_causal, self.manifest.clips.window), self.manifest.causal
        )

    def _pair(self, frames: Iterable[Frame], stream: bool = False) -> Iterator[tuple[Frame, Floats]]:
        read: deque[Frame] = deque()

        def remember() -> Iterator[NDArray[np.uint8]]:
            for frame in frames:
                read.append(frame)
                yield frame.image

        for errors in self._reconstruct(remember(), stream):
            yield read.popleft(), errors

    def _calibrate(
        self, judged: Iterable[tuple[tuple[Frame, Floats], float, float]], calibrations: Calibrations
    ) -> Iterator[ScoredFrame]:
        frame_threshold, clip_threshold = calibrations.frame.threshold, calibrations.clip.threshold
        for (frame, errors), logit, window_logit in judged:
            y_proba, clip_proba = calibrations.frame(logit), calibrations.clip(window_logit)
            is_anomalous = y_proba >= frame_threshold and clip_proba >= clip_threshold
            yield ScoredFrame(frame, errors, y_proba, clip_proba, is_anomalous)


def judge_windows(
    items: Iterable[tuple[Item, Floats]], judge: Judge, window: int, stride: int
) -> Iterator[tuple[tuple[Item, Floats], float, float]]:
    """Judge overlapping windows of error maps.

    Yields:
        Each item with its logit, the mean over the windows that hold it, and the largest logit of those windows.
    """
    pending: deque[tuple[tuple[Item, Floats], list[float], list[float]]] = deque()
    first = 0  # number of the first pending frame
    for part in slide(enumerate(items), window, stride):
        start = part[0][0]
        for _ in range(start - first):
            yield _merge(*pending.popleft())
        first = start
        pending.extend((item, [], []) for number, item in part if number >= first + len(pending))
        logits, window_logits = judge(np.stack([errors for _, (_, errors) in part])[None])
        for (_, frame_logits, tops), logit in zip(pending, logits[0], strict=True):
            frame_logits.append(float(logit))
            tops.append(float(window_logits[0]))
    while pending:
        yield _merge(*pending.popleft())


def _merge(
    item: tuple[Item, Floats], logits: list[float], tops: list[float]
) -> tuple[tuple[Item, Floats], float, float]:
    return item, sum(logits) / len(logits), max(tops)


def judge_stream(
    items: Iterable[tuple[Item, Floats]], judge: Judge, window: int
) -> Iterator[tuple[tuple[Item, Floats], float, float]]:
    """Judge each item at the end of the window that it closes; see `judge_windows`."""
    recent: deque[Floats] = deque(maxlen=window)
    for item in items:
        recent.append(item[1])
        logits, window_logits = judge(np.stack(recent)[None])
        yield item, float(logits[0, -1]), float(window_logits[0])


def load_reconstructor(
    folder: Path,
    context: list[int],
    cut_threshold: float | None,
    params: ReconstructionParams,
    num_threads: int | None = None,
) -> Reconstructor:
    """Load the diffusion model of a folder that holds it as ONNX, with its noise schedule."""
    session = _load_session(folder / DENOISER, {"frames", "timesteps"}, {"velocity"}, num_threads)

    def predict(frames: Floats, timesteps: NDArray[np.int64]) -> Floats:
        velocity: Floats = session.run(["velocity"], {"frames": frames, "timesteps": timesteps})[0]
        return velocity

    return Reconstructor(predict, np.load(folder / SCHEDULE), context, cut_threshold, params)


def load_judge(file: Path, num_threads: int | None = None) -> Judge:
    """Load a CNN+LSTM from ONNX."""
    session = _load_session(file, {"errors"}, {"frame_logits", "window_logits"}, num_threads)

    def judge(errors: Floats) -> tuple[Floats, Floats]:
        frame_logits, window_logits = session.run(["frame_logits", "window_logits"], {"errors": errors})
        return frame_logits, window_logits

    return judge


def _load_session(
    file: Path, inputs: set[str], outputs: set[str], num_threads: int | None
) -> onnxruntime.InferenceSession:
    session = load_session(file, num_threads)
    names = ({node.name for node in session.get_inputs()}, {node.name for node in session.get_outputs()})
    if names != (inputs, outputs):
        raise BundleError(f"{file}: has inputs and outputs {names}, not {(inputs, outputs)}. Make the bundle again.")
    return session
