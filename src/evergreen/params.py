"""`params.yaml` as typed, validated models: a wrong key or value stops a stage before it works."""

import codecs
import re
import reprlib
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class ParamsError(ValueError):
    """`params.yaml` can't be used; the message names each key, what was found and what is allowed."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from error
    return pattern


def _known(encoding: str) -> str:
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError("not an encoding that Python knows: write utf-8, latin-1 or cp1252, say") from error
    return encoding


def _rising(edges: list[int]) -> list[int]:
    if any(low >= high for low, high in pairwise(edges)):
        raise ValueError("each edge must be greater than the one before")
    return edges


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Columns(_Section):
    """Names of the corpus's columns."""

    text: str = "text"
    label: str = "label"
    id: str | None = None
    observed_at: str | None = None
    source: str | None = None


class Topic(_Section):
    """A topic of the corpus, told by a pattern, and when its texts were observed where they don't say."""

    name: Annotated[str, Field(min_length=1)]
    pattern: Annotated[str, AfterValidator(_compiles)]
    start: date
    days: Count


class Data(_Section):
    """What `preprocess` reads."""

    corpora: Annotated[list[str], Field(min_length=1)]
    encoding: Annotated[str, AfterValidator(_known)] = "utf-8"
    columns: Columns = Columns()
    labels: Annotated[list[str], Field(min_length=2)]
    topics: list[Topic] = []
    train_topics: Annotated[list[str], Field(min_length=1)]
    public_handles: list[Annotated[str, Field(pattern=r"^\w+$")]] = []
    min_characters: Annotated[int, Field(ge=0)]
    max_characters: Count
    max_bad_share: Share
    validation_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    batch_rows: Count
    buckets: Annotated[int, Field(ge=1, le=4096)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems, shares = [], self.validation_share + self.test_share
        if shares >= 1:
            problems.append(f"validation_share + test_share: found {shares:g}. Less than 1, to leave some to train on")
        if len(set(self.labels)) < len(self.labels):
            problems.append(f"labels: found {self.labels}. Each label once")
        names = {topic.name for topic in self.topics}
        if len(names) < len(self.topics):
            problems.append(f"topics: found {[topic.name for topic in self.topics]}. Each name once")
        if self.columns.source is None and (unknown := set(self.train_topics) - names - {"other"}):
            problems.append(f"train_topics: {sorted(unknown)} not among topics {sorted(names)}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Train(_Section):
    """What `train` reads."""

    weights: str
    warm_start: str | None = None
    replay_ratio: Annotated[float, Field(ge=0)]
    max_tokens: Annotated[int, Field(ge=8, le=8192)]
    epochs: Positive
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    head_learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup_share: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    freeze_embeddings: bool
    freeze_layers: Annotated[int, Field(ge=0)]
    class_weight_power: Share
    evaluations_per_epoch: Count
    patience: Count
    num_threads: Count | None = None


class Export(_Section):
    """How the trained model becomes a bundle."""

    quantise: bool
    agreement_texts: Count
    min_label_agreement: Share
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]


class Evaluate(_Section):
    """What `evaluate` reads."""

    batch_size: Count
    bootstrap_resamples: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    calibration_bins: Count
    length_edges: Annotated[list[int], Field(min_length=2), AfterValidator(_rising)]
    latency_texts: Count
    throughput_texts: Count
    threads: Count
    tfidf_max_features: Count
    price_per_hour: Annotated[float, Field(ge=0)]
    watts: Annotated[float, Field(ge=0)]
    currency: str


class Params(_Section):
    """All of `params.yaml`."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: Data
    train: Train
    export: Export
    evaluate: Evaluate


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a parameter file.

    Raises:
        ParamsError: naming every wrong key with what was found and what is allowed.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(
            f"{path}: no such file, or not one that may be read. Run from the repository's root, or name the file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    return parse(raw, str(path))


def parse(raw: Any, name: str = "params") -> Params:
    """Check parameters that are already in memory; see `load`."""
    try:
        return Params.model_validate(raw, strict=False)
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors()]
        raise ParamsError(f"{name}: {len(lines)} problem(s)\n  " + "\n  ".join(lines)) from error


def _line(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key. Remove it or correct its spelling."
    if problem["type"] == "missing":
        return f"{key}: missing. Add it."
    said = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):
        return f"{key}: {said}"  # of several keys at once, which it names
    return f"{key}: found {reprlib.repr(problem['input'])}. {said}"
