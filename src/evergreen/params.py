"""`params.yaml` as typed, validated models: a wrong key or value stops a stage before it works."""

import codecs
import re
import reprlib
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from evergreen.errors import EvergreenError

Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"\S")]

RENAMED = {
    "data.columns.source": "data.columns.topic",
    "data.max_bad_share": "data.max_invalid_fraction",
    "data.validation_share": "data.validation_size",
    "data.test_share": "data.test_size",
    "train.weights": "train.base_model",
    "train.max_tokens": "train.max_length",
    "train.warmup_share": "train.warmup_ratio",
    "train.patience": "train.early_stopping_patience",
    "export.quantise": "export.quantize",
    "export.agreement_texts": "export.parity_samples",
    "export.min_label_agreement": "export.min_label_parity",
    "evaluate.bootstrap_resamples": "evaluate.n_resamples",
    "evaluate.confidence": "evaluate.confidence_level",
    "evaluate.calibration_bins": "evaluate.n_bins",
    "evaluate.latency_texts": "evaluate.latency_samples",
    "evaluate.throughput_texts": "evaluate.throughput_samples",
    "evaluate.threads": "evaluate.num_threads",
}
"""Keys of version 0.1 and what they are called now."""
REMOVED = {"data.buckets", "data.num_partitions", "cnn_lstm.smoothing"}
"""Keys of earlier versions that nothing needs any more."""
_MAX_PROBLEMS = 10
"""Named in one message; a list of 150 labels that are no strings is one mistake."""


class ParamsError(EvergreenError):
    """`params.yaml` can't be used; the message names each key, its value and what is allowed."""

    exit_code = 2


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from error
    return pattern


def _check_encoding(encoding: str) -> str:
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError("not an encoding that Python has: write utf-8, latin-1 or cp1252, say") from error
    return encoding


def _check_rising(edges: list[int]) -> list[int]:
    if any(low >= high for low, high in pairwise(edges)):
        raise ValueError("each edge must be greater than the one before")
    return edges


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Columns(_Section):
    """Names of the corpus's columns."""

    text: str = "text"
    label: str = "label"
    id: str | None = None
    observed_at: str | None = None
    topic: str | None = None


class Topic(_Section):
    """A topic of the corpus, recognized by a pattern, and when its texts were observed where they don't say."""

    name: Name
    pattern: Annotated[str, AfterValidator(_check_pattern)]
    start: Annotated[date, Field(strict=False)]
    days: PositiveInt


class DataParams(_Section):
    """What `preprocess` reads."""

    corpora: Annotated[list[Name], Field(min_length=1)]
    feedback: Name | None = None
    """Parquet file of labeled texts from production; where there is none yet, it is left out."""
    encoding: Annotated[str, AfterValidator(_check_encoding)] = "utf-8"
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Between the fields of CSV files; None: detected by their header."""
    columns: Columns = Columns()
    labels: Annotated[list[Name], Field(min_length=2)] | None = None
    """None: those of the corpus, sorted."""
    topics: list[Topic] = []
    train_topics: Annotated[list[Name], Field(min_length=1)]
    public_handles: list[Annotated[str, Field(pattern=r"^\w+$")]] = []
    min_characters: NonNegativeInt
    max_characters: PositiveInt
    max_invalid_fraction: Fraction
    validation_size: Annotated[float, Field(gt=0, lt=1)]
    test_size: Annotated[float, Field(gt=0, lt=1)]
    batch_rows: PositiveInt

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        problems, held_out = [], self.validation_size + self.test_size
        if held_out >= 1:
            problems.append(f"validation_size + test_size: {held_out:g}. Less than 1, to leave some to train on")
        if self.labels and len({label.strip() for label in self.labels}) < len(self.labels):
            problems.append(f"labels: {self.labels}. Each label once")
        names = {topic.name for topic in self.topics}
        if len(names) < len(self.topics):
            problems.append(f"topics: {[topic.name for topic in self.topics]}. Each name once")
        if self.columns.topic is None and (unknown := set(self.train_topics) - names - {"other"}):
            problems.append(f"train_topics: {sorted(unknown)} not among topics {sorted(names)}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class TrainParams(_Section):
    """What `train` reads."""

    base_model: Name
    warm_start: Name | None = None
    replay_ratio: NonNegativeFloat
    max_length: Annotated[int, Field(ge=8, le=8192)]
    epochs: PositiveFloat
    batch_size: PositiveInt
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    head_learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegativeFloat
    dropout: Annotated[float, Field(ge=0, lt=1)]
    encoder_dropout: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    freeze_embeddings: bool
    freeze_layers: NonNegativeInt
    class_weight_power: Fraction
    evaluations_per_epoch: PositiveInt
    early_stopping_patience: PositiveInt
    num_threads: PositiveInt | None = None


class ExportParams(_Section):
    """How the trained model becomes a bundle."""

    quantize: Literal["static", "none"]
    calibration_samples: PositiveInt
    parity_samples: PositiveInt
    min_label_parity: Fraction
    max_batch_difference: Fraction
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]


class EvaluateParams(_Section):
    """What `evaluate` reads."""

    batch_size: PositiveInt
    n_resamples: Annotated[int, Field(ge=100)]
    confidence_level: Annotated[float, Field(gt=0.5, lt=1)]
    n_bins: PositiveInt
    length_edges: Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(_check_rising)]
    unseen_topic_samples: PositiveInt
    latency_samples: PositiveInt
    throughput_samples: PositiveInt
    num_threads: PositiveInt
    tfidf_max_features: PositiveInt
    price_per_hour: NonNegativeFloat
    watts: NonNegativeFloat
    currency: Name


AnomalyKind = Literal["patch", "skip", "shuffle", "warp", "freeze"]


class VideoParams(_Section):
    """Which videos the video pipeline learns from, and how they are divided."""

    source: Name
    labels: Name | None = None
    normal_fraction: Annotated[float, Field(gt=0, lt=1)]
    """Of the frames that the diffusion model may see, from the start of each clip."""
    validation_size: Annotated[float, Field(gt=0, lt=1)]
    test_size: Annotated[float, Field(gt=0, lt=1)]
    max_normal_frames: PositiveInt
    sequence_frames: Annotated[int, Field(ge=4)]
    synthetic_sequences: PositiveInt
    train_kinds: Annotated[list[AnomalyKind], Field(min_length=1)]
    test_kinds: Annotated[list[AnomalyKind], Field(min_length=1)]
    max_difference: Fraction
    """Of a score, between the bundle and torch, and between a window alone and in a batch."""
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        total = self.normal_fraction + self.validation_size + self.test_size
        if total >= 1:
            raise ValueError(
                f"normal_fraction + validation_size + test_size: {total:g}. Less than 1, to leave some to train on"
            )
        if both := set(self.train_kinds) & set(self.test_kinds):
            raise ValueError(f"train_kinds and test_kinds: both hold {sorted(both)}. Each kind in one of them")
        return self


class ClipParams(_Section):
    """How a video is read."""

    fps: PositiveFloat | None = None
    """Frames per second to keep; None keeps all."""
    height: Annotated[int, Field(ge=8)]
    width: Annotated[int, Field(ge=8)]
    color: bool
    window: Annotated[int, Field(ge=2, le=1024)]
    """Frames that the CNN+LSTM sees at a time."""
    stride: PositiveInt
    """Frames between the starts of two windows."""
    cut_threshold: PositiveFloat | None = None
    """Mean change of gray, of 255, from which a frame begins a new shot; None: a fixed camera, no cuts."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.stride > self.window:
            raise ValueError(f"stride: {self.stride}. At most window ({self.window}), or frames would be skipped")
        return self


class DiffusionParams(_Section):
    """The diffusion model of normal frames, and its training."""

    base_model: Name | None = None
    """An unconditional diffusers model to start from, in place of `channels` and `layers_per_block`."""
    context: list[Annotated[int, Field(lt=0)]]
    """Offsets of the predecessors that it sees, in frames."""
    channels: Annotated[list[Annotated[int, Field(ge=8, multiple_of=8)]], Field(min_length=1)]
    layers_per_block: PositiveInt
    num_train_timesteps: PositiveInt
    max_timestep: PositiveInt | None = None
    """The noise levels below it are learned; all without it, which sampling frames from noise needs."""
    steps: NonNegativeInt
    """0 leaves the model untrained, or as it was loaded."""
    batch_size: PositiveInt
    crop_size: Annotated[int, Field(ge=8)]
    moving_crops: Fraction = 0.0
    """Of the crops; they are drawn where something moves, which a fixed camera shows in few places."""
    mirror: bool = False
    """Whether half of the crops are mirrored, left to right."""
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    checkpoint_steps: PositiveInt

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.base_model is not None and self.context:
            raise ValueError(f"context: {self.context}. Empty with base_model, which was trained on single frames")
        return self


class ReconstructionParams(_Section):
    """How the reconstruction error is taken."""

    method: Literal["one_step", "ddim"]
    timesteps: Annotated[list[NonNegativeInt], Field(min_length=1)]
    """Noise levels of `one_step`."""
    noise_draws: PositiveInt
    ddim_steps: PositiveInt
    ddim_depth: PositiveInt
    """Timestep that `ddim` inverts up to."""
    batch_size: PositiveInt
    """Frames at a time."""


class CnnLstmParams(_Section):
    """The judge of error maps, and its training."""

    block: Annotated[int, Field(ge=2)]
    """Pixels along the edge of the blocks whose mean error it sees."""
    channels: PositiveInt
    layers: PositiveInt
    hidden_size: PositiveInt
    members: PositiveInt
    """CNN+LSTMs whose mean is the answer."""
    steps: NonNegativeInt
    evaluation_steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    """Of the moving average of weights that is kept."""
    weight_decay: NonNegativeFloat
    cost_ratio: PositiveFloat
    """What a missed anomaly costs, in false alarms."""


class MonitorParams(_Section):
    """How staleness is judged."""

    window_days: PositiveInt
    """Of the current window."""
    look_days: PositiveInt
    """Between two looks, which end at midnight UTC."""
    history_days: PositiveInt
    """How far back labels that came late still count."""
    min_samples: PositiveInt
    """Predictions of a window, to be judged."""
    max_samples: PositiveInt
    """Texts of a window that are looked at; of more an even sample is taken."""
    min_reference_labels: PositiveInt
    """Test texts of the reference window's time, for its accuracy to be the one to compare with."""
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)]
    """Chance that `budget_days` in which nothing changes bring an alarm."""
    budget_days: PositiveInt
    company_size: PositiveInt
    """Signals that make the verdict stale together."""
    signals: dict[Name, dict[str, Any]]
    """Of each signal its own parameters, which its class in `monitoring/signals/` explains and checks."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        problems = []
        if self.look_days > self.budget_days:
            problems.append(f"look_days: {self.look_days}. At most budget_days ({self.budget_days})")
        if self.history_days < self.window_days:
            problems.append(f"history_days: {self.history_days}. At least window_days ({self.window_days})")
        if self.max_samples < self.min_samples:
            problems.append(f"max_samples: {self.max_samples}. At least min_samples ({self.min_samples})")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class GateParams(_Section):
    """When a challenger may replace the champion."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    """Probability of each bound's error: of an equal challenger to seem better on the newest texts."""
    n_resamples: Annotated[int, Field(ge=1000)]
    min_new_samples: PositiveInt
    """Test texts newer than the champion's data, to judge by."""
    min_gain: Annotated[float, Field(ge=-1, le=1)]
    """Of accuracy on them: the lower bound must be above."""
    max_loss: Fraction
    """Of accuracy and macro-F1 on the frozen test set: the lower bound must be above minus this."""
    min_slice_samples: PositiveInt
    max_slice_loss: Fraction
    max_calibration_loss: Fraction
    max_latency_ratio: PositiveFloat
    max_size_mb: PositiveFloat
    max_training_cost: NonNegativeFloat
    max_video_loss: Fraction


class RetrainingParams(_Section):
    """How a new model is proposed."""

    feedback_sources: list[Name] = []
    """Whose labels are collected; empty: everybody's."""
    cooldown_days: NonNegativeFloat
    """After somebody closed a proposal."""


Strategy = Literal["random", "uncertainty", "diversity", "drift", "combined"]
"""Of selecting predictions to label: `monitoring/label_selection.py`."""


class LabelingParams(_Section):
    """Which predictions people are asked to label."""

    strategy: Strategy
    """What `monitoring/label_selection.py` prefers, beside what is drawn at random."""
    random_fraction: Fraction
    """Of the budget; only these labels measure accuracy."""


class ReleaseParams(_Section):
    """When a release holds, and when it is rolled back."""

    golden_samples: Annotated[int, Field(ge=2, le=64)]
    """Test texts that a server must answer as the bundle does; 64 is what a server takes at a time."""
    max_difference: Fraction
    """Of a probability, between the server's answer and the bundle's."""
    ready_seconds: PositiveFloat
    """That a server may take to get ready."""
    batch_seconds: PositiveFloat
    """That a batch of the golden texts may take."""
    watch_minutes: PositiveFloat
    """How long a version is measured."""
    probes_per_second: Annotated[float, Field(gt=0, le=50)]
    """Golden texts that are sent while callers send too few."""
    min_requests: PositiveInt
    """To judge a version by."""
    max_error_increase: Fraction
    """Of the fraction of requests that end with 5xx, against the version before."""
    max_p99_ratio: PositiveFloat
    p99_floor_ms: NonNegativeFloat
    """What p99 may be above `max_p99_ratio` times the version before."""
    max_p99_ms: PositiveFloat
    """Of a release without a version before."""


class Params(_Section):
    """All of `params.yaml`."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: DataParams
    train: TrainParams
    export: ExportParams
    evaluate: EvaluateParams
    video: VideoParams
    clips: ClipParams
    diffusion: DiffusionParams
    reconstruction: ReconstructionParams
    cnn_lstm: CnnLstmParams
    monitor: MonitorParams
    gate: GateParams
    labeling: LabelingParams
    retraining: RetrainingParams
    release: ReleaseParams

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        problems, clips = [], self.clips
        factor = 2 ** (len(self.diffusion.channels) - 1)
        if self.diffusion.base_model is None and (clips.height % factor or clips.width % factor):
            problems.append(
                f"clips.height and width: {clips.height} and {clips.width}. Multiples of {factor}, since "
                f"diffusion.channels has {len(self.diffusion.channels)} levels"
            )
        if self.cnn_lstm.block > min(clips.height, clips.width):
            problems.append(f"cnn_lstm.block: {self.cnn_lstm.block}. At most clips.height and width")
        if self.video.sequence_frames < clips.window:
            problems.append(f"video.sequence_frames: {self.video.sequence_frames}. At least clips.window")
        problems += self._check_timesteps()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _check_timesteps(self) -> list[str]:
        """Reconstruction uses no noise level that the diffusion model has not learned."""
        diffusion, reconstruction = self.diffusion, self.reconstruction
        limit, name = diffusion.num_train_timesteps, "diffusion.num_train_timesteps"
        problems = []
        if diffusion.max_timestep is not None:
            if diffusion.max_timestep > limit:
                problems.append(f"diffusion.max_timestep: {diffusion.max_timestep}. At most {name}, {limit}")
            limit, name = diffusion.max_timestep, "diffusion.max_timestep"
        if reconstruction.method == "one_step" and max(reconstruction.timesteps) >= limit:
            problems.append(f"reconstruction.timesteps: {reconstruction.timesteps}. Below {name}, {limit}")
        if reconstruction.method == "ddim" and reconstruction.ddim_depth > limit:
            problems.append(f"reconstruction.ddim_depth: {reconstruction.ddim_depth}. At most {name}, {limit}")
        if reconstruction.method == "ddim" and reconstruction.ddim_steps > reconstruction.ddim_depth:
            problems.append(
                f"reconstruction.ddim_steps: {reconstruction.ddim_steps}. At most reconstruction.ddim_depth"
            )
        return problems

    @classmethod
    def load(cls, path: str | Path = "params.yaml") -> Self:
        """Read and check a parameter file (YAML 1.2, as DVC reads it).

        Raises:
            ParamsError: naming every wrong key with its value and what is allowed.
        """
        try:
            raw = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ParamsError(
                f"{path}: no such file, or not one that may be read. Run from the repository's root, or name the file."
            ) from error
        except UnicodeDecodeError as error:
            raise ParamsError(f"{path}: not UTF-8. Save the file as UTF-8.") from error
        except YAMLError as error:
            raise ParamsError(f"{path}: not valid YAML: {_first_lines(error)}") from error
        return cls.parse(raw, str(path))

    @classmethod
    def parse(cls, raw: Any, name: str = "params") -> Self:
        """Check parameters that are already in memory; see `load`."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            problems = error.errors()
            renamed = {RENAMED.get(_key(problem)) for problem in problems}
            lines = [
                _describe(problem)
                for problem in problems
                if problem["type"] != "missing" or _key(problem) not in renamed
            ]
            n_problems = len(lines)
            if len(lines) > _MAX_PROBLEMS:
                lines[_MAX_PROBLEMS:] = [f"… and {len(lines) - _MAX_PROBLEMS} more"]
            raise ParamsError(f"{name}: {n_problems} problem(s)\n  " + "\n  ".join(lines)) from error


def _first_lines(error: YAMLError) -> str:
    # What follows the first empty line is advice on the library's own interface.
    return str(error).split("\n\n")[0]


def _key(problem: Any) -> str:
    return ".".join(str(part) for part in problem["loc"]) or "(whole file)"


def _describe(problem: Any) -> str:
    key = _key(problem)
    if new := RENAMED.get(key):
        return f"{key}: now called {new}. Rename it; params.yaml of this version explains each key."
    if key in REMOVED:
        return f"{key}: no longer needed. Remove it."
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key. Remove it or correct its spelling."
    if problem["type"] == "missing":
        return f"{key}: missing. Add it."
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float | date):
        message = "YAML reads this as no string. Write it in quotes, as it stands in the data"
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):
        return f"{key}: {message}"  # of several keys at once, which it names
    return f"{key}: found {reprlib.repr(problem['input'])}. {message}"
