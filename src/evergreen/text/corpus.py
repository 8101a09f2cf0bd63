"""The corpus: one schema, cleaning, and a split by hash, for corpora larger than memory."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.parquet as pq

from evergreen.logs import get_logger
from evergreen.params import Columns, DataParams
from evergreen.text.cleaning import build_cleaner
from evergreen.text.csv_records import MAX_KEPT
from evergreen.text.labels import save_labels
from evergreen.text.partitions import HashPartitions
from evergreen.text.readers import Batch, CorpusError, CorpusFormat, read_batches
from evergreen.text.splits import SPLITS, assign_split, hash_text
from evergreen.text.topics import match_topics

log = get_logger(__name__)
STRING = pd.StringDtype(na_value=np.nan)
COLUMNS = ["id", "text", "label", "observed_at", "topic"]
ARROW = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("observed_at", pa.timestamp("us", tz="UTC")),
        ("topic", pa.string()),
    ]
)
PARTITION = pa.schema(
    [*ARROW, pa.field("text_hash", pa.uint64()), pa.field("order", pa.int64()), pa.field("in_training", pa.bool_())]
)
FEEDBACK_COLUMNS = Columns(id="id", observed_at="observed_at")
"""Of `data.feedback`, which `evergreen feedback collect` writes."""


UNKNOWN_LABEL = "label: not in data.labels"
MAX_LABELS = 1000
"""Of a corpus whose labels are taken from it; a column with more holds something else."""


def build_schema(data: DataParams) -> pandera.DataFrameSchema:
    """Return the schema of a valid row."""
    text = pandera.Check.str_length(
        max_value=data.max_characters, error=f"longer than {data.max_characters} characters"
    )
    label = [] if data.labels is None else [pandera.Check.isin(data.labels, error="not in data.labels")]
    return pandera.DataFrameSchema(
        {
            "text": pandera.Column(STRING, text, nullable=False),
            "label": pandera.Column(STRING, label, nullable=False),
            "observed_at": pandera.Column("datetime64[us, UTC]", nullable=False),
            "topic": pandera.Column(STRING, nullable=False),
        }
    )


@dataclass
class CorpusStats:
    """What became of the rows of a corpus."""

    rows: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    """By reason."""
    unknown_labels: Counter[str] = field(default_factory=Counter)
    """Labels that are not in `data.labels`, the first `MAX_LABELS` of them."""
    simulated_times: int = 0
    """Valid rows whose time was made up from `data.topics`."""
    near_empty: int = 0
    duplicates: int = 0
    label_conflicts: int = 0
    retained: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Texts by (split or "stream", topic, label)."""
    labels: list[str] = field(default_factory=list)
    """`data.labels`, or those of the retained texts, sorted."""

    @property
    def invalid_fraction(self) -> float:
        """Fraction of the rows that was quarantined."""
        return self.quarantined.total() / max(self.rows, 1)


def prepare(data: DataParams, folder: Path) -> CorpusStats:
    """Clean, check and split the corpora into `folder`.

    Writes `train`, `validation`, `test` and `stream` (topics not trained on) as Parquet, `labels.json` and
    `quarantine.csv`. Feedback is trained on whatever its topic, and its label comes before the corpora's.

    Raises:
        CorpusError: when too many rows are invalid (the quarantine file says which), a split stays empty, or there is
            nothing to tell apart.
    """
    stats = CorpusStats()
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".partitions"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with HashPartitions(scratch, PARTITION, data.batch_rows) as partitions:
            _partition(data, folder, partitions, stats)
        if stats.invalid_fraction > data.max_invalid_fraction:
            raise CorpusError(_describe_invalid(data, stats, folder / "quarantine.csv"))
        _deduplicate(data, folder, partitions, stats)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sizes = {split: sum(n for (part, _, _), n in stats.retained.items() if part == split) for split in SPLITS}
    if empty := [split for split, size in sizes.items() if not size]:
        raise CorpusError(f"no text left for {empty} (sizes: {sizes}). Check data.train_topics and the sizes.")
    stats.labels = data.labels or sorted({label for _, _, label in stats.retained})
    if len(stats.labels) < 2:
        raise CorpusError(f"all texts have the label {stats.labels}. Add texts of another, or check columns.label.")
    save_labels(stats.labels, folder)
    if stats.simulated_times:
        log.warning(
            "times are simulated", rows=stats.simulated_times, remedy="name the column of times: columns.observed_at"
        )
    return stats


def _describe_invalid(data: DataParams, stats: CorpusStats, quarantine: Path) -> str:
    lines = [
        f"{stats.quarantined.total():,} of {stats.rows:,} rows are invalid ({stats.invalid_fraction:.1%}; "
        f"data.max_invalid_fraction allows {data.max_invalid_fraction:.1%}): {_list_most(stats.quarantined)}. "
        f"See {quarantine}."
    ]
    if stats.unknown_labels:
        quoted = Counter({repr(label): count for label, count in stats.unknown_labels.items()})
        lines.append(f"The labels there are {_list_most(quoted)}; data.labels is {data.labels}.")
    return "\n".join(lines)


def _list_most(counts: Counter[str], limit: int = 8) -> str:
    parts = [f"{name} ({count:,})" for name, count in counts.most_common(limit)]
    return ", ".join(parts) + (f" and {len(counts) - limit:,} others" if len(counts) > limit else "")


def _partition(data: DataParams, folder: Path, partitions: HashPartitions, stats: CorpusStats) -> None:
    preprocessor = Preprocessor(data)
    read, labels = 0, set[str]()
    with (folder / "quarantine.csv").open("w", encoding="utf-8", newline="") as quarantine:
        _write_rejected(pd.DataFrame(), quarantine, header=True)
        for batch, is_feedback in _read_all(data):
            valid, rejected = preprocessor.process(batch)
            stats.rows += len(batch.rows) + len(batch.unreadable)
            stats.quarantined.update(rejected["reason"])
            _count_labels(rejected, stats.unknown_labels)
            _write_rejected(rejected.assign(file=batch.file), quarantine)
            stats.simulated_times += len(valid) if "observed_at" not in batch.rows else 0
            empty = valid["text"].str.len() < data.min_characters
            stats.near_empty += int(empty.sum())
            valid = valid[~empty]
            labels.update(valid["label"].unique())
            if len(labels) > MAX_LABELS and data.labels is None:
                raise CorpusError(
                    f"{batch.file}: more than {MAX_LABELS:,} labels. Check columns.label, or list data.labels."
                )
            # Reading order across corpora decides which of two duplicates stays.
            valid = valid.assign(
                order=range(read, read + len(valid)),
                in_training=valid["topic"].isin(data.train_topics) | is_feedback,
            )
            read += len(batch.rows)
            # A text that comes a million times must not make a partition that large.
            unique = valid.drop_duplicates(["text_hash", "label"])
            stats.duplicates += len(valid) - len(unique)
            partitions.add(unique)


def _count_labels(rejected: pd.DataFrame, counts: Counter[str]) -> None:
    for label in rejected.loc[rejected["reason"] == UNKNOWN_LABEL, "detail"]:
        if label in counts or len(counts) < MAX_LABELS:
            counts[label] += 1


def _read_all(data: DataParams) -> Iterator[tuple[Batch, bool]]:
    """Read the feedback, then the corpora: of two equal texts the feedback's stays."""
    for batch in _read_feedback(data):
        yield batch, True
    for batch in _read_corpora(data):
        yield batch, False


def _read_corpora(data: DataParams) -> Iterator[Batch]:
    form = CorpusFormat(data.columns, data.encoding, data.separator, data.labels or (), data.batch_rows)
    for uri in data.corpora:
        yield from read_batches(uri, form)


def _read_feedback(data: DataParams) -> Iterator[Batch]:
    if data.feedback is None:
        return
    if Path(data.feedback).exists():
        yield from read_batches(data.feedback, CorpusFormat(FEEDBACK_COLUMNS, batch_rows=data.batch_rows))
    elif Path(f"{data.feedback}.dvc").exists():
        raise CorpusError(f"{data.feedback}: not fetched. Run: dvc pull {data.feedback}")


def _write_rejected(rows: pd.DataFrame, file: TextIO, header: bool = False) -> None:
    columns = ["file", "row", "reason", "detail", "text"]
    rows.reindex(columns=columns).to_csv(file, header=header, index=False)


def _open_writers(
    stack: ExitStack, folder: Path, names: Iterable[str], schema: pa.Schema
) -> dict[str, pq.ParquetWriter]:
    return {
        name: stack.enter_context(pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd"))
        for name in names
    }


def _deduplicate(data: DataParams, folder: Path, partitions: HashPartitions, stats: CorpusStats) -> None:
    with ExitStack() as stack:
        writers = _open_writers(stack, folder, [*SPLITS, "stream"], ARROW)
        for rows in partitions.read_sorted():
            labels = rows.groupby("text_hash")["label"].nunique()
            stats.label_conflicts += int((labels > 1).sum())
            unique = rows.drop_duplicates("text_hash")
            stats.duplicates += len(rows) - len(unique)
            splits = [assign_split(int(h), data.validation_size, data.test_size) for h in unique["text_hash"]]
            unique = unique.assign(split=pd.Series(splits, unique.index).where(unique["in_training"], "stream"))
            stats.retained.update(unique[["split", "topic", "label"]].itertuples(index=False, name=None))
            for name, part in unique.groupby("split"):
                writers[str(name)].write_table(pa.Table.from_pandas(part[COLUMNS], ARROW, preserve_index=False))


class Preprocessor:
    """Turns raw rows into rows of the schema; remembers where each topic's clock stands."""

    def __init__(self, data: DataParams) -> None:
        self._data = data
        self._schema = build_schema(data)
        self._clean = build_cleaner(data.public_handles)
        self._seen: Counter[str] = Counter()
        self._totals: dict[str, int] | None = None

    def process(self, batch: Batch) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the valid rows (schema plus `text_hash`), and why the others are not (with their cleaned `text`)."""
        rows = batch.rows.astype(object)
        rows["topic"] = self._match_topics(rows)
        rows["text"] = rows["text"].map(lambda value: self._clean(value) if isinstance(value, str) else None)
        rows["observed_at"] = self._read_times(rows)
        for name in ("label", "topic"):
            rows[name] = rows[name].map(_strip)
        rows = rows.astype({"text": STRING, "label": STRING, "topic": STRING})
        reasons = _check_schema(rows, self._schema)
        rejected = [
            (row, problem.reason, problem.detail, _shorten(self._clean(_drop_partial_word(problem.text))))
            for row, problem in batch.unreadable.items()
        ]
        for row, reason in reasons.items():
            detail = _shorten(self._clean(str(rows.at[row, "label"]))) if reason == UNKNOWN_LABEL else ""
            rejected.append((row, reason, detail, _shorten(rows.at[row, "text"])))
        valid = rows.drop(index=list(reasons))
        valid["text_hash"] = pd.Series([hash_text(text) for text in valid["text"]], valid.index, dtype="uint64")
        ids = pd.Series([f"{h:016x}" for h in valid["text_hash"]], valid.index, dtype=object)
        if "id" in valid:
            ids = valid["id"].where(valid["id"].notna(), ids).map(_replace_surrogates).astype(str)
        valid["id"] = ids
        return valid, pd.DataFrame(sorted(rejected), columns=["row", "reason", "detail", "text"])

    def _match_topics(self, rows: pd.DataFrame) -> pd.Series:
        if "topic" in rows:
            return rows["topic"]
        texts = [text if isinstance(text, str) else "" for text in rows["text"]]
        return pd.Series(match_topics(texts, self._data.topics), rows.index, dtype=object)

    def _read_times(self, rows: pd.DataFrame) -> pd.Series:
        if "observed_at" in rows:
            return pd.to_datetime(rows["observed_at"], utc=True, errors="coerce", format="ISO8601").astype(
                "datetime64[us, UTC]"
            )
        topics = {topic.name: topic for topic in self._data.topics}
        totals = self._count_topics()
        times = pd.Series(pd.NaT, rows.index, dtype="datetime64[us, UTC]")
        for name, part in rows.groupby("topic"):
            topic = topics.get(str(name))
            if topic is None:
                continue
            position = (pd.RangeIndex(len(part)) + self._seen[topic.name]) / max(totals[topic.name], 1)
            self._seen[topic.name] += len(part)
            offsets = pd.to_timedelta(position * topic.days, unit="D")
            times[part.index] = (pd.Timestamp(topic.start, tz="UTC") + offsets).astype("datetime64[us, UTC]")
        return times

    def _count_topics(self) -> dict[str, int]:
        # Spreading a topic evenly over its days needs its size first: one light pass over the corpora.
        if self._totals is None:
            totals: Counter[str] = Counter()
            for batch in _read_corpora(self._data):
                totals.update(self._match_topics(batch.rows))
            self._totals = dict(totals)
        return self._totals


def _check_schema(rows: pd.DataFrame, schema: pandera.DataFrameSchema) -> dict[int, str]:
    """Return the first reason against each invalid row."""
    try:
        schema.validate(rows, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases: Any = error.failure_cases
        general = cases[cases["index"].isna()]
        if len(general):
            raise CorpusError(f"rows don't fit the schema: {general['check'].tolist()}") from error
        cases = cases.drop_duplicates("index")
        return {
            int(index): f"{column}: {'missing or unreadable' if check == 'not_nullable' else check}"
            for index, column, check in zip(cases["index"], cases["column"], cases["check"], strict=True)
        }
    return {}


def _strip(value: Any) -> Any:
    return (_replace_surrogates(value).strip() or None) if isinstance(value, str) else value


def _replace_surrogates(value: Any) -> Any:
    # JSON can hold half of a character pair, which no file can.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _drop_partial_word(text: str) -> str:
    # Half of an address is not known as one, and would not be cleaned.
    return text.rpartition(" ")[0] if len(text) == MAX_KEPT else text


def _shorten(text: Any) -> str:
    return text[:500] if isinstance(text, str) else ""
