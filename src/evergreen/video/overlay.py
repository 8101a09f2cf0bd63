"""Where a frame can't be restored, as a heat map on the picture, and as a video that browsers play."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from evergreen.video.bundle import Manifest
from evergreen.video.detector import ScoredFrame

Picture = NDArray[np.uint8]
COLD, HOT = 1.5, 5.0
"""Standard deviations above normal blocks' errors where the heat begins to show, and where it is full."""
ALARM = (220, 40, 30)


def draw_heat(picture: Picture, errors: NDArray[np.float32], manifest: Manifest) -> Picture:
    """Lay the standardized error of blocks over a picture; the scale is the same for every frame and video.

    Args:
        picture: [height, width, 3] in RGB, of any size.
        errors: [timesteps, height, width].
    """
    blocks = np.stack([cv2.blur(error, (manifest.block, manifest.block)) for error in errors])
    mean, std = (np.array(values)[:, None, None] for values in (manifest.error_mean, manifest.error_std))
    standardized = ((np.log(blocks + 1e-6) - mean) / std).mean(0).astype(np.float32)
    heat = cv2.resize(((standardized - COLD) / (HOT - COLD)).clip(0, 1), picture.shape[1::-1])
    colors = cv2.cvtColor(cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    alpha = 0.75 * np.sqrt(heat)[..., None]
    blended: Picture = (picture * (1 - alpha) + colors * alpha).round().astype(np.uint8)
    return blended


class OverlayWriter:
    """Writes scored frames, which need their previews, as H.264 with heat, score, and a red frame while it alarms."""

    def __init__(self, path: Path, fps: float, manifest: Manifest) -> None:
        self._manifest = manifest
        self._container: Any = av.open(str(path), "w", options={"movflags": "faststart"})
        rate = Fraction(fps).limit_denominator(1000)
        self._stream: Any = self._container.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, 90_000)
        self._last = -1

    def write(self, scored: ScoredFrame) -> None:
        """Add a frame at its own time."""
        picture = scored.frame.preview
        if picture is None:
            raise ValueError("the frame has no preview: open the clip with preview=True")
        if self._last < 0:
            self._stream.height, self._stream.width = picture.shape[:2]
        frame = av.VideoFrame.from_ndarray(self._draw(picture, scored), "rgb24")
        frame.time_base = Fraction(1, 90_000)
        # Time stamps must rise, whatever the file's own do.
        self._last = frame.pts = max(round(scored.frame.seconds * 90_000), self._last + 1)
        self._container.mux(self._stream.encode(frame))

    def _draw(self, picture: Picture, scored: ScoredFrame) -> Picture:
        drawn = draw_heat(picture, scored.errors, self._manifest)
        text = f"{scored.frame.seconds:.1f} s  {scored.y_proba:.2f}"
        scale = max(drawn.shape[1] / 900, 0.3)
        border = max(round(8 * scale), 2)
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        cv2.rectangle(drawn, (0, 0), (width + 4 * border, height + 4 * border), (0, 0, 0), cv2.FILLED)
        place = (2 * border, height + 2 * border)
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
        if scored.is_anomalous:
            cv2.rectangle(drawn, (0, 0), (drawn.shape[1] - 1, drawn.shape[0] - 1), ALARM, border)
        return drawn

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            self._container.mux(self._stream.encode())
        self._container.close()
