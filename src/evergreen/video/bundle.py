"""The detector's bundle: diffusion model, CNN+LSTM for files and for streams, noise schedule, and `bundle.json`."""

import math
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, Field

from evergreen.bundle import BaseBundle, BaseManifest
from evergreen.params import ClipParams, ReconstructionParams

FORMAT = 1
DENOISER, SCHEDULE = "denoiser.onnx", "alphas_cumprod.npy"
CNN_LSTM, CNN_LSTM_CAUSAL = "cnn_lstm.onnx", "cnn_lstm_causal.onnx"


class Calibration(BaseModel):
    """What turns a logit into a probability (Platt, 1999), and the probability from which the answer is 1.

    The probability is of a world where anomalies are as frequent as normal frames.
    """

    scale: float = Field(gt=0)
    offset: float
    threshold: float

    def __call__(self, logit: float) -> float:
        """Calibrated probability of an anomaly."""
        # The logistic function by tanh, which cannot overflow.
        return 0.5 * (1 + math.tanh((self.scale * logit + self.offset) / 2))


class Calibrations(BaseModel):
    """Of single frames, and of windows, the highest of which is the clip's."""

    frame: Calibration
    clip: Calibration


class Manifest(BaseManifest):
    """What its `bundle.json` holds."""

    format: int = FORMAT
    name: str = "video"
    clips: ClipParams
    context: list[int]
    """Offsets of the predecessors that the diffusion model sees."""
    reconstruction: ReconstructionParams
    block: int
    """Pixels along the edge of the blocks whose mean error is judged."""
    error_mean: list[float]
    error_std: list[float]
    """Of the logarithm of normal blocks' errors, by timestep."""
    offline: Calibrations
    """With the future known."""
    causal: Calibrations
    """In a stream."""
    cost_ratio: float
    """What a missed anomaly was taken to cost, in false alarms, as the thresholds were chosen."""
    normal_frames: int
    """That the diffusion model learned from."""
    train_sequences: int
    """That the CNN+LSTM learned from."""
    weights_hash: str
    """SHA-256 of the diffusion model's torch weights."""


@dataclass(frozen=True)
class Bundle(BaseBundle[Manifest]):
    """A verified detector bundle on disk."""

    manifest_class: ClassVar[type[BaseManifest]] = Manifest
    required_files: ClassVar[tuple[str, ...]] = (DENOISER, SCHEDULE, CNN_LSTM, CNN_LSTM_CAUSAL)
