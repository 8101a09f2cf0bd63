"""Labels that came back from production, collected into a Parquet file that the next training reads."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from evergreen import files
from evergreen.errors import EvergreenError, get_first_line
from evergreen.metrics import Metrics
from evergreen.monitoring.log import Feedback, LoggedPrediction, PredictionLog

_OVERLAP = timedelta(days=7)
"""Read again before the last cut: rows that waited in a server's spool have an earlier time than their arrival."""
_TIME = pa.timestamp("us", tz="UTC")
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("observed_at", _TIME),
        ("source", pa.string()),
        ("received_at", _TIME),
    ]
)


class FeedbackError(EvergreenError):
    """Feedback can't be collected; the message says what to do."""


@dataclass(frozen=True)
class LabeledText:
    """A row of the file: a text of production with the label that came back.

    Attributes:
        id: of the prediction.
        source: who gave the label.
        observed_at: when the text was predicted.
        received_at: when the label came.
    """

    id: str
    text: str
    label: str
    observed_at: datetime
    source: str
    received_at: datetime


class FeedbackSummary(Metrics):
    """Where the file's rows come from; the file beside it with the suffix .json, committed for the reviewer.

    Attributes:
        cut: the newest label that was read, collected or not.
        n_samples: rows of the file.
        n_new: rows that this collection added.
        n_relabeled: rows whose label it changed.
        sources, labels: rows by who gave the label, and by label.
        skipped: labels since the last cut that were not taken, by reason.
    """

    cut: datetime | None = None
    n_samples: int = 0
    n_new: int = 0
    n_relabeled: int = 0
    sources: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)
    skipped: dict[str, int] = Field(default_factory=dict)


def collect_feedback(
    log: PredictionLog, file: Path, labels: list[str] | None, sources: list[str], until: datetime | None = None
) -> FeedbackSummary:
    """Add the labels that came since the last cut to a file; of two labels for a prediction the later one counts.

    Args:
        log: of production.
        file: Parquet, made where there is none; its summary is written beside it.
        labels: that the model knows; None: those that the server took, which knows its bundle.
        sources: whose labels are taken; empty: everybody's.
        until: labels that came later are left for the next time; by default now.

    Raises:
        FeedbackError: when the file was not fetched, or is damaged.
        LogUnavailable: when the log can't be read.
    """
    before = load_summary(file)
    rows = {row.id: row for row in _read_rows(file)}
    old = {row_id: row.label for row_id, row in rows.items()}
    start = before.cut - _OVERLAP if before.cut else datetime.min.replace(tzinfo=UTC)
    skipped: Counter[str] = Counter()
    cut = before.cut
    for prediction, feedback in log.stream_feedback(start, until or datetime.now(UTC)):
        is_new = before.cut is None or feedback.received_at > before.cut
        cut = feedback.received_at if cut is None else max(cut, feedback.received_at)
        if reason := _choose_reason(prediction, feedback, labels, sources):
            skipped[reason] += is_new
        elif prediction.id not in rows or rows[prediction.id].received_at <= feedback.received_at:
            rows[prediction.id] = _make_row(prediction, feedback)
    summary = FeedbackSummary(
        cut=cut,
        n_samples=len(rows),
        n_new=len(rows.keys() - old.keys()),
        n_relabeled=sum(rows[row_id].label != label for row_id, label in old.items()),
        sources=_count(row.source for row in rows.values()),
        labels=_count(row.label for row in rows.values()),
        skipped={reason: count for reason, count in sorted(skipped.items()) if count},
    )
    if rows:
        _write(file, rows.values(), summary)
    return summary


def load_summary(file: Path) -> FeedbackSummary:
    """Read the summary beside a feedback file; an empty one where there is none.

    Raises:
        FeedbackError: when it is damaged.
    """
    path = file.with_suffix(".json")
    try:
        return FeedbackSummary.load(path) if path.exists() else FeedbackSummary()
    except (ValidationError, UnicodeDecodeError) as error:
        raise FeedbackError(f"{path}: not what evergreen feedback collect writes. Restore it with git.") from error


def _choose_reason(
    prediction: LoggedPrediction, feedback: Feedback, labels: list[str] | None, sources: list[str]
) -> str | None:
    """Why a label is not taken; None where it is."""
    if prediction.kind != "text":
        return "of a video"
    if sources and feedback.source not in sources:
        return "of a source that is not in retraining.feedback_sources"
    if labels is not None and feedback.label not in labels:
        return "a label that is not in data.labels"
    if prediction.text is None:
        return "the log kept no text (EVERGREEN_LOG_TEXT)"
    return None


def _make_row(prediction: LoggedPrediction, feedback: Feedback) -> LabeledText:
    return LabeledText(
        id=prediction.id,
        text=prediction.text or "",
        label=feedback.label,
        observed_at=prediction.observed_at,
        source=feedback.source,
        received_at=feedback.received_at,
    )


def _read_rows(file: Path) -> list[LabeledText]:
    if not file.exists():
        if Path(f"{file}.dvc").exists():
            raise FeedbackError(f"{file}: not fetched, and what it has would be lost. Run: dvc pull {file}")
        return []
    try:
        return [LabeledText(**row) for row in pq.read_table(file, schema=_SCHEMA).to_pylist()]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise FeedbackError(
            f"{file}: not what evergreen feedback collect writes ({get_first_line(error)}). Fetch it again: "
            f"dvc checkout --force {file}"
        ) from error


def _write(file: Path, rows: Iterable[LabeledText], summary: FeedbackSummary) -> None:
    # The newest label first: of two equal texts, preprocess keeps the one that it reads first.
    ordered = sorted(rows, key=lambda row: (row.received_at, row.id), reverse=True)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in ordered], _SCHEMA), sink, compression="zstd")
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(file, sink.getvalue().to_pybytes())
    summary.save(file.with_suffix(".json"))


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
