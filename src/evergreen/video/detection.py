"""The verdict on one video file, with its evidence: `result.json`, `timeline.png`, `overlay.mp4`."""

from contextlib import ExitStack
from pathlib import Path

from pydantic import Field
from tqdm import tqdm

from evergreen.metrics import Metrics
from evergreen.video.detector import Detector


class TimeRange(Metrics):
    """Consecutive anomalous frames, both ends included, and the highest score among them."""

    first_frame: int
    last_frame: int
    start_seconds: float
    end_seconds: float
    score: float


class Detection(Metrics):
    """What `result.json` holds."""

    source: str
    answer: int
    """1: anomalous; 0: not."""
    score: float = 0.0
    """How likely the clip holds an anomaly: the highest of its windows."""
    threshold: float
    """Of `score`, from which the answer is 1."""
    frame_threshold: float
    """Of a frame's own score, for `ranges`."""
    model: str
    n_frames: int = 0
    ranges: list[TimeRange] = Field(default=[])
    """Empty where the answer is 0."""
    frames: list[int] = Field(default=[])
    """Numbers in the file of the frames that were read; `seconds` and `scores` go with them."""
    seconds: list[float] = Field(default=[])
    scores: list[float] = Field(default=[])


def detect(detector: Detector, source: Path, folder: Path | None = None) -> Detection:
    """Answer 1 or 0 for a video file, in memory that does not grow with it but for a few numbers a frame.

    Args:
        folder: where the evidence goes; None writes none.

    Raises:
        VideoError: when nothing can be decoded.
    """
    clip = detector.open(source, preview=folder is not None)
    calibrations, manifest = detector.manifest.offline, detector.manifest
    detection = Detection(
        source=clip.name,
        answer=0,
        threshold=calibrations.clip.threshold,
        frame_threshold=calibrations.frame.threshold,
        model=manifest.identity,
    )
    alarms: list[bool] = []
    windows: list[float] = []
    with ExitStack() as stack:
        overlay = None
        if folder is not None:
            from evergreen.video.overlay import OverlayWriter  # noqa: PLC0415 - an answer alone needs no encoder

            folder.mkdir(parents=True, exist_ok=True)
            fps = min(manifest.clips.fps or clip.fps, clip.fps)
            overlay = stack.enter_context(OverlayWriter(folder / "overlay.mp4", fps, manifest))
        frames = tqdm(clip.frames(), source.name, clip.frame_count or None, unit="frame", mininterval=1, disable=None)
        for scored in detector.score(frames):
            detection.frames.append(scored.frame.index)
            detection.seconds.append(round(scored.frame.seconds, 3))
            detection.scores.append(round(scored.y_proba, 4))
            windows.append(scored.clip_proba)
            alarms.append(scored.is_anomalous)
            if overlay is not None:
                overlay.write(scored)
    _conclude(detection, windows, alarms)
    if folder is not None:
        _write_evidence(detection, source.name, folder)
    return detection


def _conclude(detection: Detection, windows: list[float], alarms: list[bool]) -> None:
    detection.n_frames = len(detection.frames)
    detection.score = max(windows)
    detection.answer = int(detection.score >= detection.threshold)
    if detection.answer and not any(alarms):
        # The frames of an anomalous window, where none stands out among them.
        alarms = [proba >= detection.threshold for proba in windows]
    detection.ranges = _find_ranges(detection, alarms)


def _write_evidence(detection: Detection, name: str, folder: Path) -> None:
    """Write all but the overlay, which was written frame by frame."""
    from evergreen.plots import plot_timeline  # noqa: PLC0415 - takes a second to import

    detection.save(folder / "result.json")
    spans = [(part.start_seconds, part.end_seconds) for part in detection.ranges]
    title = f"{name}: {detection.answer} (score {detection.score:.3f}, threshold {detection.threshold:.3f})"
    plot_timeline(detection.seconds, detection.scores, detection.frame_threshold, spans, title, folder / "timeline.png")


def _find_ranges(detection: Detection, alarms: list[bool]) -> list[TimeRange]:
    ranges: list[TimeRange] = []
    last_alarm = False
    for number, alarm in enumerate(alarms):
        frame, seconds, score = detection.frames[number], detection.seconds[number], detection.scores[number]
        if alarm and last_alarm:
            ranges[-1].last_frame, ranges[-1].end_seconds = frame, seconds
            ranges[-1].score = max(ranges[-1].score, score)
        elif alarm:
            ranges.append(
                TimeRange(first_frame=frame, last_frame=frame, start_seconds=seconds, end_seconds=seconds, score=score)
            )
        last_alarm = alarm
    return ranges
