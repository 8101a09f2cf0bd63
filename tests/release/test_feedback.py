"""Labels that come back reach the next training: each once, the newest, from whom they may come."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evergreen.monitoring.log import Feedback, LoggedPrediction, PredictionLog
from evergreen.params import Params
from evergreen.release.feedback import FeedbackError, collect_feedback, load_summary
from evergreen.text.corpus import prepare

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LABELS = ["negative", "neutral", "positive"]
PARAMS = Params.load(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture
def log(tmp_path: Path) -> PredictionLog:
    return PredictionLog.open(f"sqlite:///{tmp_path}/log.db")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "corpora/feedback.parquet"


def add(log: PredictionLog, text: str | None, label: str, hours: float = 0, **fields: Any) -> str:
    """Log a prediction and its label, which came `hours` after NOW."""
    source = fields.pop("by", "annotator")
    values: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "kind": "text",
        "source": "live",
        "label": "neutral",
        "probabilities": {"neutral": 1.0},
        "model": "text 0.1.0 abc",
        "observed_at": NOW - timedelta(days=1),
        "text": text,
    } | fields
    row = LoggedPrediction(**values)
    log.write([row], [Feedback(row.id, source, label, NOW + timedelta(hours=hours))])
    return row.id


def collect(log: PredictionLog, file: Path, sources: list[str] | None = None, hours: float = 100) -> Any:
    return collect_feedback(log, file, LABELS, sources or [], NOW + timedelta(hours=hours))


def test_each_label_is_collected_once_and_the_newest_counts(log: PredictionLog, file: Path) -> None:
    first = add(log, "late again", "negative")
    add(log, "on time", "positive", hours=1)
    summary = collect(log, file)
    assert (summary.n_samples, summary.n_new, summary.n_relabeled) == (2, 2, 0)
    assert summary.cut == NOW + timedelta(hours=1)
    add(log, "a third", "neutral", hours=2)
    log.write([], [Feedback(first, "somebody else", "neutral", NOW + timedelta(hours=3))])
    summary = collect(log, file)
    assert (summary.n_samples, summary.n_new, summary.n_relabeled) == (3, 1, 1)
    assert summary.sources == {"annotator": 2, "somebody else": 1}
    rows = pd.read_parquet(file)
    assert rows["text"].tolist() == ["late again", "a third", "on time"]  # the newest label first
    assert rows["label"].tolist() == ["neutral", "neutral", "positive"]
    again = collect(log, file)
    assert (again.n_new, again.n_relabeled) == (0, 0)
    assert pd.read_parquet(file).equals(rows)


def test_label_that_waited_in_a_spool_is_not_missed(log: PredictionLog, file: Path) -> None:
    add(log, "on time", "positive", hours=24)
    collect(log, file)
    add(log, "late again", "negative", hours=20)  # received before the cut, written after
    assert collect(log, file).n_new == 1


def test_rows_survive_their_pruning_from_the_log(log: PredictionLog, file: Path) -> None:
    add(log, "late again", "negative")
    collect(log, file)
    log.prune(NOW + timedelta(days=1))
    add(log, "on time", "positive", hours=1)
    assert collect(log, file).n_samples == 2


def test_what_is_not_taken_is_counted_with_its_reason(log: PredictionLog, file: Path) -> None:
    add(log, "late again", "negative")
    add(log, "a wrong name", "angry")
    add(log, None, "negative")
    add(log, "by a stranger", "positive", by="page")
    add(log, None, "1", kind="video", source="video")
    summary = collect(log, file, ["annotator"])
    assert pd.read_parquet(file)["text"].tolist() == ["late again"]
    assert sum(summary.skipped.values()) == 4
    assert any("data.labels" in reason for reason in summary.skipped)
    assert any("EVERGREEN_LOG_TEXT" in reason for reason in summary.skipped)
    assert any("feedback_sources" in reason for reason in summary.skipped)
    assert collect(log, file, ["annotator"]).skipped == {}


def test_without_feedback_there_is_no_file(log: PredictionLog, file: Path) -> None:
    assert collect(log, file).n_samples == 0
    assert not file.exists()


def test_file_that_was_not_fetched_or_is_damaged_is_never_replaced(log: PredictionLog, file: Path) -> None:
    add(log, "late again", "negative")
    file.parent.mkdir()
    Path(f"{file}.dvc").touch()
    with pytest.raises(FeedbackError, match="dvc pull"):
        collect(log, file)
    file.write_bytes(b"PAR1")
    with pytest.raises(FeedbackError, match="dvc checkout"):
        collect(log, file)
    assert file.read_bytes() == b"PAR1"
    file.with_suffix(".json").write_text("{", encoding="utf-8")
    with pytest.raises(FeedbackError, match="Restore it"):
        load_summary(file)


def test_log_is_read_in_pages(log: PredictionLog) -> None:
    ids = [add(log, f"text {i}", "neutral", hours=i // 4) for i in range(20)]  # several at one time
    pairs = list(log.stream_feedback(NOW - timedelta(1), NOW + timedelta(1), batch_rows=3))
    assert [label.prediction_id for _, label in pairs] == [prediction.id for prediction, _ in pairs]
    assert sorted(prediction.id for prediction, _ in pairs) == sorted(ids)
    assert [label.received_at for _, label in pairs] == sorted(label.received_at for _, label in pairs)
    assert len(list(log.stream_feedback(NOW, NOW + timedelta(hours=2)))) == 8  # without the first, with the last


def test_training_takes_feedback_of_any_topic_and_its_label_first(
    log: PredictionLog, file: Path, tmp_path: Path
) -> None:
    rows = [(f"@united flight {i} was late", "negative") for i in range(60)]
    rows += [("the new iphone number nine", "neutral"), ("the new iphone number ten", "neutral")]
    corpus = tmp_path / "corpus.csv"
    pd.DataFrame(rows, columns=["text", "sentiment"]).to_csv(corpus, index=False)
    add(log, "The new  iPhone number nine", "positive")
    for i in range(40):
        add(log, f"deflated balls, part {i}", "negative", hours=1)
    collect(log, file)
    changes = {"corpora": [str(corpus)], "feedback": str(file)}
    data = PARAMS.data.model_copy(update=changes)
    stats = prepare(data, tmp_path / "text")
    read = {name: pd.read_parquet(tmp_path / f"text/{name}.parquet") for name in ("train", "validation", "test")}
    trained = pd.concat(read.values())
    assert (trained["topic"] == "deflategate").sum() == 40
    assert trained.loc[trained["topic"] == "apple", "label"].tolist() == ["positive"]
    assert pd.read_parquet(tmp_path / "text/stream.parquet")["text"].tolist() == ["the new iphone number ten"]
    assert trained["observed_at"].max() == NOW - timedelta(days=1)
    assert stats.label_conflicts == 1
    assert stats.rows == 62 + 41


def test_feedback_that_was_not_fetched_stops_preprocess(tmp_path: Path) -> None:
    (tmp_path / "feedback.parquet.dvc").touch()
    data = PARAMS.data.model_copy(update={"feedback": str(tmp_path / "feedback.parquet")})
    with pytest.raises(Exception, match="dvc pull"):
        prepare(data, tmp_path / "text")
