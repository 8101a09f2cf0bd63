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

from evergreen.params import Columns, DataParams
from evergreen.text.cleaning import build_cleaner
from evergreen.text.readers import Batch, CorpusError, read_batches
from evergreen.text.splits import SPLITS, assign_split, hash_text
from evergreen.text.topics import match_topics

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
FEEDBACK = "feedback"
FEEDBACK_COLUMNS = Columns(id="id", observed_at="observed_at")
"""Of `data.feedback`, which `evergreen retrain collect` writes."""


def build_schema(data: DataParams) -> pandera.DataFrameSchema:
    """Return the schema of a valid row."""
    text = [
        pandera.Check.str_length(max_value=data.max_characters, error=f"longer than {data.max_characters} characters")
    ]
    return pandera.DataFrameSchema(
        {
            "text": pandera.Column(STRING, text, nullable=False),
            "label": pandera.Column(
                STRING, pandera.Check.isin(data.labels, error="label not in data.labels"), nullable=False
            ),
            "observed_at": pandera.Column("datetime64[us, UTC]", nullable=False),
            "topic": pandera.Column(STRING, nullable=False),
        }
    )


@dataclass
class CorpusStats:
    """What became of the rows of a corpus."""

    rows: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    near_empty: int = 0
    duplicates: int = 0
    label_conflicts: int = 0
    retained: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Texts by (split or "stream", topic, label)."""

    @property
    def invalid_fraction(self) -> float:
        """Fraction of the rows that was quarantined."""
        return self.quarantined.total() / max(self.rows, 1)


def prepare(data: DataParams, folder: Path) -> CorpusStats:
    """Clean, check and split the corpora into `folder`.

    Writes `train`, `validation`, `test` and `stream` (topics not trained on) as Parquet, and `quarantine.csv`.
    Feedback is trained on whatever its topic, and its label comes before the corpora's.
    Rows are partitioned by the hash of their text, so that duplicates meet in one partition and memory holds one
    partition at a time.

    Raises:
        CorpusError: when too many rows are invalid (the quarantine file says which) or a split stays empty.
    """
    stats = CorpusStats()
    folder.mkdir(parents=True, exist_ok=True)
    partitions = folder / ".partitions"
    shutil.rmtree(partitions, ignore_errors=True)
    partitions.mkdir()
    try:
        _partition(data, folder, partitions, stats)
        if stats.invalid_fraction > data.max_invalid_fraction:
            raise CorpusError(
                f"{stats.quarantined.total()} of {stats.rows} rows are invalid ({stats.invalid_fraction:.1%}; "
                f"data.max_invalid_fraction allows {data.max_invalid_fraction:.1%}): {dict(stats.quarantined)}. "
                f"See {folder / 'quarantine.csv'}."
            )
        _deduplicate(data, folder, partitions, stats)
    finally:
        shutil.rmtree(partitions, ignore_errors=True)
    sizes = {split: sum(n for (part, _, _), n in stats.retained.items() if part == split) for split in SPLITS}
    if empty := [split for split, size in sizes.items() if not size]:
        raise CorpusError(f"no text left for {empty} (sizes: {sizes}). Check data.train_topics and the sizes.")
    return stats


def _partition(data: DataParams, folder: Path, partitions: Path, stats: CorpusStats) -> None:
    preprocessor = Preprocessor(data)
    read = 0
    with ExitStack() as stack:
        quarantine = stack.enter_context((folder / "quarantine.csv").open("w", encoding="utf-8", newline=""))
        _write_rejected(pd.DataFrame(), quarantine, header=True)
        writers = _open_writers(stack, partitions, map(str, range(data.num_partitions)), PARTITION)
        for corpus, batch in _read_all(data):
            valid, invalid = preprocessor.process(batch)
            stats.rows += len(batch.rows) + len(batch.unreadable)
            stats.quarantined.update(invalid["reason"])
            _write_rejected(invalid.assign(corpus=corpus), quarantine)
            empty = valid["text"].str.len() < data.min_characters
            stats.near_empty += int(empty.sum())
            valid = valid[~empty]
            in_training = valid["topic"].isin(data.train_topics) | (corpus == FEEDBACK)
            # Reading order across corpora decides which of two duplicates stays.
            valid = valid.assign(order=range(read, read + len(valid)), in_training=in_training)
            read += len(batch.rows)
            partition = valid["text_hash"].map(lambda h: h * data.num_partitions >> 64)
            for n, part in valid.astype({"text_hash": "uint64"}).groupby(partition):
                writers[str(n)].write_table(pa.Table.from_pandas(part, PARTITION, preserve_index=False))


def _read_all(data: DataParams) -> Iterator[tuple[str, Batch]]:
    """Read the feedback, then the corpora: of two equal texts the feedback's stays."""
    for batch in _read_feedback(data):
        yield FEEDBACK, batch
    for number, uri in enumerate(data.corpora):
        for batch in _read_corpus(data, uri):
            yield str(number), batch


def _read_corpus(data: DataParams, uri: str) -> Iterator[Batch]:
    return read_batches(uri, data.columns, data.encoding, data.batch_rows)


def _read_feedback(data: DataParams) -> Iterator[Batch]:
    if data.feedback is None:
        return
    if Path(data.feedback).exists():
        yield from read_batches(data.feedback, FEEDBACK_COLUMNS, "utf-8", data.batch_rows)
    elif Path(f"{data.feedback}.dvc").exists():
        raise CorpusError(f"{data.feedback}: not fetched. Run: dvc pull {data.feedback}")


def _write_rejected(rows: pd.DataFrame, file: TextIO, header: bool = False) -> None:
    columns = ["corpus", "row", "reason", "text"]
    rows.reindex(columns=columns).to_csv(file, header=header, index=False)


def _open_writers(
    stack: ExitStack, folder: Path, names: Iterable[str], schema: pa.Schema
) -> dict[str, pq.ParquetWriter]:
    return {
        name: stack.enter_context(pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd"))
        for name in names
    }


def _deduplicate(data: DataParams, folder: Path, partitions: Path, stats: CorpusStats) -> None:
    with ExitStack() as stack:
        writers = _open_writers(stack, folder, [*SPLITS, "stream"], ARROW)
        for n in range(data.num_partitions):
            rows = pq.read_table(partitions / f"{n}.parquet").to_pandas().sort_values(["text_hash", "order"])
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
        """Return the valid rows (schema plus `text_hash`) and the invalid ones (`row`, `reason`, cleaned `text`)."""
        rows = batch.rows.astype(object)
        rows["topic"] = self._match_topics(rows)
        rows["text"] = rows["text"].map(lambda value: self._clean(value) if isinstance(value, str) else None)
        rows["observed_at"] = self._read_times(rows)
        for name in ("label", "topic"):
            rows[name] = rows[name].map(_replace_surrogates)
        rows = rows.astype({"text": STRING, "label": STRING, "topic": STRING})
        reasons = _check_schema(rows, self._schema)
        rejected = [(row, reason, "") for row, reason in batch.unreadable]
        rejected += [(int(row), reason, _shorten(rows.at[row, "text"])) for row, reason in reasons.items()]
        valid = rows.drop(index=list(reasons))
        valid["text_hash"] = pd.Series([hash_text(text) for text in valid["text"]], valid.index, dtype=object)
        ids = pd.Series([f"{h:016x}" for h in valid["text_hash"]], valid.index, dtype=object)
        if "id" in valid:
            ids = valid["id"].where(valid["id"].notna(), ids).map(_replace_surrogates).astype(str)
        valid["id"] = ids
        return valid, pd.DataFrame(rejected, columns=["row", "reason", "text"])

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
            for uri in self._data.corpora:
                for batch in _read_corpus(self._data, uri):
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


def _replace_surrogates(value: Any) -> Any:
    # JSON can hold half of a character pair, which no file can.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _shorten(text: Any) -> str:
    return text[:500] if isinstance(text, str) else ""
