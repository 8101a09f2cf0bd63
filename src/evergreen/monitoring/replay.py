"""Feed labeled texts through the champion into a log, week by week, as a scenario says, and look at each week."""

import codecs
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import httpx
import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from evergreen.errors import EvergreenError, get_first_line
from evergreen.monitoring.log import Feedback, LabeledPrediction, LoggedPrediction, PredictionLog
from evergreen.monitoring.monitor import Monitor
from evergreen.monitoring.staleness import Verdict
from evergreen.monitoring.windows import Windows
from evergreen.params import Fraction
from evergreen.text.runtime import Classifier

SCENARIOS = Path(__file__).parent / "scenarios"
_WEEK = timedelta(days=7)
_TEXTS_PER_REQUEST = 32


class ReplayError(EvergreenError):
    """A scenario can't be replayed; the message names the key or the texts that are missing."""

    exit_code = 2


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fault(_Section):
    """What a broken upstream does to the texts, in this order."""

    truncate: PositiveInt | None = None
    """Characters that are left."""
    written: str = "utf-8"
    read: str = "utf-8"
    """Encodings in which the texts are written and read."""

    @model_validator(mode="after")
    def _check_encodings(self) -> Self:
        for name in ("written", "read"):
            try:
                codecs.lookup(getattr(self, name))
            except LookupError as error:
                raise ValueError(f"{name}: {getattr(self, name)!r} is no encoding that Python has") from error
        return self


class Foreign(_Section):
    """Texts of another language among the week's."""

    fraction: Fraction
    texts: str
    """A file beside the scenario, a text a line, drawn with repetition; their labels are not known."""


class Week(_Section):
    """What production sees in a week, or in several alike."""

    repeat: PositiveInt = 1
    topics: dict[str, Annotated[float, Field(gt=0)]]
    """Parts of the week's texts."""
    labels: dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Parts of the week's texts by label; as the texts have them if left out."""
    fault: Fault | None = None
    foreign: Foreign | None = None


class FeedbackPlan(_Section):
    """Which predictions get their label back, and when."""

    fraction: Fraction
    delay_days: Annotated[float, Field(ge=0)] = 0.0
    only: Literal["all", "wrong"] = "all"
    """`wrong`: only wrong predictions, as where people complain."""


class Scenario(_Section):
    """What happens, week by week."""

    description: str
    start: date
    """Of the first week."""
    texts_per_week: PositiveInt
    feedback: FeedbackPlan
    weeks: Annotated[list[Week], Field(min_length=1)]
    folder: Path = SCENARIOS

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        for week in self.weeks:
            if week.foreign is not None and not (self.folder / week.foreign.texts).is_file():
                raise ValueError(f"foreign.texts: no file {self.folder / week.foreign.texts}")
        return self

    @classmethod
    def load(cls, name: str) -> Self:
        """Read a scenario from a file, or one that comes along by its name.

        Raises:
            ReplayError: naming each wrong key, or the scenarios that there are.
        """
        path = Path(name) if name.endswith((".yaml", ".yml")) else SCENARIOS / f"{name}.yaml"
        try:
            raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
            return cls.model_validate({**raw, "folder": path.parent})
        except OSError as error:
            raise ReplayError(
                f"{name}: no such scenario. There are: {', '.join(list_scenarios())}; or name a .yaml file."
            ) from error
        except (YAMLError, UnicodeDecodeError, TypeError) as error:
            raise ReplayError(f"{path}: not a scenario in YAML ({get_first_line(error)}).") from error
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, problem['loc'])) or '(whole file)'}: {problem['msg']}"
                for problem in error.errors()
            ]
            raise ReplayError(f"{path}: {len(problems)} problem(s)\n  " + "\n  ".join(problems)) from error


def list_scenarios() -> list[str]:
    """The names of the scenarios that come along."""
    return sorted(path.stem for path in SCENARIOS.glob("*.yaml"))


@dataclass(frozen=True)
class ReplayedWeek:
    """A week's texts as they arrive, with their true labels; None where nobody knows it."""

    number: int
    until: datetime
    texts: list[str]
    labels: list[str | None]
    description: str


class Corpus:
    """Labeled texts to draw from, each once.

    Args:
        paths: Parquet with `text`, `label` and `topic`, none of which the champion was trained or is compared on.
        seed: of the order.
    """

    def __init__(self, paths: Iterable[Path], seed: int) -> None:
        tables = []
        for path in paths:
            if not path.is_file():
                raise ReplayError(f"{path}: missing. Make it (dvc repro) or fetch it (dvc pull data/text).")
            tables.append(pd.read_parquet(path, columns=["text", "label", "topic"]))
        self._rows = pd.concat(tables, ignore_index=True).sample(frac=1, random_state=seed)

    def draw(self, week: Week, n_texts: int) -> pd.DataFrame:
        """Take texts of the topics and labels that a week asks for.

        Raises:
            ReplayError: when there are not enough.
        """
        parts = []
        for topic, n_topic in _divide(week.topics, n_texts).items():
            rows = self._rows[self._rows["topic"] == topic]
            if week.labels is None:
                parts.append(_take(rows, n_topic, f"of topic {topic}"))
                continue
            for label, n_label in _divide(week.labels, n_topic).items():
                parts.append(_take(rows[rows["label"] == label], n_label, f"of topic {topic} and label {label}"))
        drawn = pd.concat(parts)
        self._rows = self._rows.drop(drawn.index)
        return drawn


def plan_weeks(scenario: Scenario, corpus: Corpus, seed: int) -> Iterator[ReplayedWeek]:
    """Draw each week's texts and do to them what the scenario says.

    Raises:
        ReplayError: when the corpus has too few texts.
    """
    rng = np.random.default_rng(seed)
    start = datetime.combine(scenario.start, datetime.min.time(), UTC)
    weeks = [week for week in scenario.weeks for _ in range(week.repeat)]
    for number, week in enumerate(weeks, 1):
        n_foreign = round(week.foreign.fraction * scenario.texts_per_week) if week.foreign else 0
        rows = corpus.draw(week, scenario.texts_per_week - n_foreign)
        pairs: list[tuple[str, str | None]] = list(zip(rows["text"], rows["label"], strict=True))
        if week.foreign:
            lines = (scenario.folder / week.foreign.texts).read_text(encoding="utf-8").splitlines()
            pairs += [(str(text), None) for text in rng.choice(lines, n_foreign)]
        order = rng.permutation(len(pairs))
        texts = [_damage(pairs[i][0], week.fault) for i in order]
        labels = [pairs[i][1] for i in order]
        yield ReplayedWeek(number, start + number * _WEEK, texts, labels, describe_week(week))


def describe_week(week: Week) -> str:
    """Say in a few words what a week brings."""
    total = sum(week.topics.values())
    shares = [f"{name} {part / total:.0%}" for name, part in week.topics.items()]
    parts = [" + ".join(shares) if len(shares) > 1 else next(iter(week.topics))]
    if week.labels:
        share = sum(week.labels.values())
        parts.append("labels " + ", ".join(f"{name} {part / share:.0%}" for name, part in week.labels.items()))
    if week.fault and week.fault.truncate:
        parts.append(f"cut at {week.fault.truncate} characters")
    if week.fault and week.fault.read != week.fault.written:
        parts.append(f"{week.fault.written} read as {week.fault.read}")
    if week.foreign:
        parts.append(f"{week.foreign.fraction:.0%} from {week.foreign.texts}")
    return "; ".join(parts)


class Feeder(Protocol):
    """Gets a week's texts predicted and logged, with their feedback."""

    def feed(self, week: ReplayedWeek, plan: FeedbackPlan, rng: np.random.Generator) -> list[str]:
        """Return the predicted labels."""
        ...

    def read(self, since: datetime, until: datetime) -> Iterable[LabeledPrediction]:
        """Read the rows that were fed, at their simulated times."""
        ...


class RuntimeFeeder:
    """Predicts with the champion here, and writes rows with simulated times.

    Args:
        classifier: the champion.
        log: of the replay alone.
    """

    def __init__(self, classifier: Classifier, log: PredictionLog) -> None:
        self._classifier = classifier
        self._log = log

    def feed(self, week: ReplayedWeek, plan: FeedbackPlan, rng: np.random.Generator) -> list[str]:
        """Predict and write."""
        predictions = self._classifier.predict(week.texts)
        times = _spread(week.until, len(week.texts))
        rows = [
            LoggedPrediction(
                uuid.UUID(bytes=rng.bytes(16), version=4).hex,
                "text",
                "live",
                prediction.label,
                prediction.probabilities,
                self._classifier.manifest.identity,
                time,
                text=self._classifier.clean(text),
            )
            for text, prediction, time in zip(week.texts, predictions, times, strict=True)
        ]
        predicted = [row.label for row in rows]
        delay = timedelta(days=plan.delay_days)
        labels = choose_feedback(predicted, week.labels, plan, rng)
        feedback = [
            Feedback(row.id, "replay", label, row.observed_at + delay)
            for row, label in zip(rows, labels, strict=True)
            if label is not None
        ]
        self._log.write(rows, feedback)
        return predicted

    def read(self, since: datetime, until: datetime) -> Iterable[LabeledPrediction]:
        """Read the log."""
        return self._log.stream(since, until)


class ServerFeeder:
    """Asks a running server, whose log gets the rows at the real time; a look sees them at simulated times.

    Args:
        url: of the server.
        log: the server's.
        model: the champion's identity; the server must serve it.
        api_key: where the server asks for one.
    """

    def __init__(self, url: str, log: PredictionLog, model: str, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=60)
        self._log = log
        self._model = model
        self._times: dict[str, tuple[datetime, datetime]] = {}
        """When each prediction was made, and when its label came, in the simulation."""

    def feed(self, week: ReplayedWeek, plan: FeedbackPlan, rng: np.random.Generator) -> list[str]:
        """Post texts, then labels."""
        answers: list[dict[str, Any]] = []
        for first in range(0, len(week.texts), _TEXTS_PER_REQUEST):
            answer = self._post("/v1/classify", {"texts": week.texts[first : first + _TEXTS_PER_REQUEST]})
            if answer["model"] != self._model:
                raise ReplayError(
                    f"the server answers with {answer['model']}, not with {self._model}. Serve this bundle."
                )
            answers += answer["predictions"]
        predicted = [answer["label"] for answer in answers]
        delay = timedelta(days=plan.delay_days)
        for answer, time in zip(answers, _spread(week.until, len(answers)), strict=True):
            self._times[answer["id"]] = (time, time + delay)
        for answer, label in zip(answers, choose_feedback(predicted, week.labels, plan, rng), strict=True):
            if label is not None:
                self._post("/v1/feedback", {"prediction_id": answer["id"], "label": label, "source": "replay"})
        return predicted

    def read(self, since: datetime, until: datetime) -> Iterable[LabeledPrediction]:
        """Read the server's log for what was asked here."""
        for row in self._log.stream():
            observed_at, received_at = self._times.get(row.prediction.id, (until, until))
            if since <= observed_at < until:
                feedback = None if row.feedback is None else replace(row.feedback, received_at=received_at)
                yield replace(row, prediction=replace(row.prediction, observed_at=observed_at), feedback=feedback)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            response = self._client.post(path, json=body)
        except httpx.HTTPError as error:
            raise ReplayError(f"{self._client.base_url}: no answer ({error}). Start the server: make serve.") from error
        if response.is_error:
            raise ReplayError(f"{self._client.base_url}{path}: {response.status_code} {response.text[:300]}")
        return response.json()


@dataclass(frozen=True)
class ReplayedLook:
    """A week of a replay, and what the monitor made of it.

    Attributes:
        accuracy: of the champion on the week's texts, labels that never come back included; None where none is known.
    """

    week: ReplayedWeek
    verdict: Verdict
    windows: Windows
    accuracy: float | None


def replay(scenario: Scenario, corpus: Corpus, monitor: Monitor, feeder: Feeder) -> Iterator[ReplayedLook]:
    """Feed week by week, and look at the end of each.

    Raises:
        ReplayError: when texts are missing, or the server doesn't answer.
    """
    seed = monitor.params.seed
    rng = np.random.default_rng(seed)
    history = timedelta(days=monitor.params.monitor.history_days)
    for week in plan_weeks(scenario, corpus, seed):
        predicted = feeder.feed(week, scenario.feedback, rng)
        verdict, windows = monitor.look(feeder.read(week.until - history, week.until), week.until, now=week.until)
        right = [answer == label for answer, label in zip(predicted, week.labels, strict=True) if label is not None]
        yield ReplayedLook(week, verdict, windows, float(np.mean(right)) if right else None)


def start_log(path: Path) -> PredictionLog:
    """An empty log in a SQLite file, in place of an earlier replay's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return PredictionLog.open(f"sqlite:///{path.resolve()}")


def choose_feedback(
    predicted: list[str], actual: list[str | None], plan: FeedbackPlan, rng: np.random.Generator
) -> list[str | None]:
    """The labels that come back, None where none does."""
    drawn = rng.random(len(predicted)) < plan.fraction
    return [
        label if is_drawn and (plan.only == "all" or label != answer) else None
        for answer, label, is_drawn in zip(predicted, actual, drawn, strict=True)
    ]


def _spread(until: datetime, count: int) -> list[datetime]:
    """Times spread evenly over the week before one."""
    return [until - _WEEK * (1 - (i + 0.5) / count) for i in range(count)]


def _divide(parts: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers in proportion that add up to the total."""
    ends = np.round(np.cumsum(list(parts.values())) / sum(parts.values()) * total).astype(int)
    return dict(zip(parts, np.diff(ends, prepend=0).tolist(), strict=True))


def _take(rows: pd.DataFrame, count: int, what: str) -> pd.DataFrame:
    if len(rows) < count:
        raise ReplayError(
            f"{count} texts {what} are asked for, {len(rows)} are left. Lower texts_per_week or change the weeks."
        )
    return rows.iloc[:count]


def _damage(text: str, fault: Fault | None) -> str:
    if fault is None:
        return text
    damaged = text[: fault.truncate] if fault.truncate else text
    if fault.read == fault.written:
        return damaged
    return damaged.encode(fault.written, "replace").decode(fault.read, "replace")
