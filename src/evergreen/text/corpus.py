"""The corpus: one schema, cleaning, and a split by hash, for any number of rows in constant memory."""

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.parquet as pq

from evergreen.params import Data
from evergreen.text.cleaning import cleaner, normalised
from evergreen.text.reading import Batch, CorpusError, batches

STRING = pd.StringDtype(na_value=np.nan)
SPLITS = ("train", "validation", "test")
COLUMNS = ["id", "text", "label", "observed_at", "source"]
ARROW = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("observed_at", pa.timestamp("us", tz="UTC")),
        ("source", pa.string()),
    ]
)


def key(text: str) -> int:
    """Hash a clean text, duplicates alike, to 64 bits."""
    return int.from_bytes(hashlib.blake2b(normalised(text).encode(), digest_size=8).digest(), "big")


def split_of(text_key: int, validation_share: float, test_share: float) -> str:
    """Tell which side a text stands on; it depends on nothing but the text, so it never changes.

    Test takes the low end of the hash range, validation the next part: moving one share keeps most texts.
    """
    place = text_key / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def schema(data: Data) -> pandera.DataFrameSchema:
    """Say what a good row is."""
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
            "source": pandera.Column(STRING, nullable=False),
        }
    )


@dataclass
class Counts:
    """What became of the rows of a corpus."""

    rows: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    near_empty: int = 0
    duplicates: int = 0
    label_conflicts: int = 0
    kept: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Texts by (split or "stream", source, label)."""

    @property
    def bad_share(self) -> float:
        """Share of the rows that was quarantined."""
        return self.quarantined.total() / max(self.rows, 1)


def prepare(data: Data, folder: Path) -> Counts:
    """Clean, check and split the corpora into `folder`.

    Writes `train`, `validation`, `test` and `stream` (topics not trained on) as Parquet, and `quarantine.csv`.
    Rows are spread over bucket files by the hash of their text, so that duplicates meet in one bucket and
    memory holds one bucket at a time.

    Raises:
        CorpusError: when too many rows are bad (the quarantine file tells which) or a split stays empty.
    """
    counts = Counts()
    folder.mkdir(parents=True, exist_ok=True)
    buckets = folder / ".buckets"
    shutil.rmtree(buckets, ignore_errors=True)
    buckets.mkdir()
    try:
        _spread(data, folder, buckets, counts)
        if counts.bad_share > data.max_bad_share:
            raise CorpusError(
                f"{counts.quarantined.total()} of {counts.rows} rows are bad ({counts.bad_share:.1%}; "
                f"data.max_bad_share allows {data.max_bad_share:.1%}): {dict(counts.quarantined)}. "
                f"See {folder / 'quarantine.csv'}."
            )
        _collect(data, folder, buckets, counts)
    finally:
        shutil.rmtree(buckets, ignore_errors=True)
    sizes = {split: sum(n for (side, _, _), n in counts.kept.items() if side == split) for split in SPLITS}
    if empty := [split for split, size in sizes.items() if not size]:
        raise CorpusError(f"no text left for {empty} (kept: {sizes}). Check data.train_topics and the shares.")
    return counts


def _spread(data: Data, folder: Path, buckets: Path, counts: Counts) -> None:
    names = range(data.buckets)
    writers = {n: pq.ParquetWriter(buckets / f"{n}.parquet", _BUCKET) for n in names}
    tidy, rules, read = Tidier(data), schema(data), 0
    with (folder / "quarantine.csv").open("w", encoding="utf-8", newline="") as quarantine:
        pd.DataFrame(columns=["corpus", "row", "reason", "text"]).to_csv(quarantine, index=False)
        try:
            for number, uri in enumerate(data.corpora):
                for batch in batches(uri, data.columns, data.encoding, data.batch_rows):
                    good, bad = tidy(batch, rules)
                    counts.rows += len(batch.rows) + len(batch.unreadable)
                    counts.quarantined.update(bad["reason"])
                    bad.assign(corpus=number).reindex(columns=["corpus", "row", "reason", "text"]).to_csv(
                        quarantine, header=False, index=False
                    )
                    empty = good["text"].str.len() < data.min_characters
                    counts.near_empty += int(empty.sum())
                    good = good[~empty]
                    # Reading order across corpora decides which of two duplicates stays.
                    good = good.assign(order=range(read, read + len(good)))
                    read += len(batch.rows)
                    for n, part in good.groupby(good["key"].map(lambda k: k * data.buckets >> 64)):
                        writers[int(n)].write_table(pa.Table.from_pandas(_stored(part), _BUCKET, preserve_index=False))
        finally:
            for writer in writers.values():
                writer.close()


_BUCKET = ARROW.append(pa.field("key", pa.uint64())).append(pa.field("order", pa.int64()))


def _stored(part: pd.DataFrame) -> pd.DataFrame:
    return part.assign(key=part["key"].astype("uint64"))


def _collect(data: Data, folder: Path, buckets: Path, counts: Counts) -> None:
    sides = [*SPLITS, "stream"]
    writers = {side: pq.ParquetWriter(folder / f"{side}.parquet", ARROW, compression="zstd") for side in sides}
    try:
        for n in range(data.buckets):
            rows = pq.read_table(buckets / f"{n}.parquet").to_pandas().sort_values(["key", "order"])
            labels = rows.groupby("key")["label"].nunique()
            counts.label_conflicts += int((labels > 1).sum())
            unique = rows.drop_duplicates("key")
            counts.duplicates += len(rows) - len(unique)
            trained = unique["source"].isin(data.train_topics)
            sides_of = [split_of(int(k), data.validation_share, data.test_share) for k in unique["key"]]
            unique = unique.assign(side=pd.Series(sides_of, unique.index).where(trained, "stream"))
            counts.kept.update(unique[["side", "source", "label"]].itertuples(index=False, name=None))
            for side, part in unique.groupby("side"):
                table = pa.Table.from_pandas(part[COLUMNS], ARROW, preserve_index=False)
                writers[str(side)].write_table(table)
    finally:
        for writer in writers.values():
            writer.close()


class Tidier:
    """Turns raw rows into rows of the schema; remembers where each topic's clock stands."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._clean = cleaner(data.public_handles)
        self._seen: Counter[str] = Counter()
        self._totals: dict[str, int] | None = None

    def __call__(self, batch: Batch, rules: pandera.DataFrameSchema) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the good rows (schema plus `key`) and the bad ones (`row`, `reason`, cleaned `text`)."""
        rows = batch.rows.astype(object)
        rows["source"] = self._sources(rows)
        rows["text"] = rows["text"].map(lambda value: self._clean(value) if isinstance(value, str) else None)
        rows["observed_at"] = self._times(rows)
        for name in ("label", "source"):
            rows[name] = rows[name].map(_encodable)
        rows = rows.astype({"text": STRING, "label": STRING, "source": STRING})
        reasons = _failures(rows, rules)
        told = [(row, reason, "") for row, reason in batch.unreadable]
        told += [(int(row), reason, _shown(rows.at[row, "text"])) for row, reason in reasons.items()]
        good = rows.drop(index=list(reasons))
        good["key"] = pd.Series([key(text) for text in good["text"]], good.index, dtype=object)
        hashed = pd.Series([f"{k:016x}" for k in good["key"]], good.index, dtype=object)
        good["id"] = (
            good["id"].where(good["id"].notna(), hashed).map(_encodable).astype(str) if "id" in good else hashed
        )
        return good, pd.DataFrame(told, columns=["row", "reason", "text"])

    def _sources(self, rows: pd.DataFrame) -> pd.Series:
        if "source" in rows:
            return rows["source"]
        patterns = [(topic.name, re.compile(topic.pattern, re.I)) for topic in self._data.topics if topic.pattern]
        texts = [text if isinstance(text, str) else "" for text in rows["text"]]
        found = [next((name for name, pattern in patterns if pattern.search(text)), "other") for text in texts]
        return pd.Series(found, rows.index, dtype=object)

    def _times(self, rows: pd.DataFrame) -> pd.Series:
        if "observed_at" in rows:
            return pd.to_datetime(rows["observed_at"], utc=True, errors="coerce", format="ISO8601").astype(
                "datetime64[us, UTC]"
            )
        topics = {topic.name: topic for topic in self._data.topics}
        totals = self._topic_totals()
        times = pd.Series(pd.NaT, rows.index, dtype="datetime64[us, UTC]")
        for name, part in rows.groupby("source"):
            topic = topics.get(str(name))
            if topic is None:
                continue
            place = (pd.RangeIndex(len(part)) + self._seen[topic.name]) / max(totals[topic.name], 1)
            self._seen[topic.name] += len(part)
            offsets = pd.to_timedelta(place * topic.days, unit="D")
            times[part.index] = (pd.Timestamp(topic.start, tz="UTC") + offsets).astype("datetime64[us, UTC]")
        return times

    def _topic_totals(self) -> dict[str, int]:
        # Spreading a topic evenly over its days needs its size first: one light pass over the corpora.
        if self._totals is None:
            totals: Counter[str] = Counter()
            for uri in self._data.corpora:
                for batch in batches(uri, self._data.columns, self._data.encoding, self._data.batch_rows):
                    totals.update(self._sources(batch.rows))
            self._totals = dict(totals)
        return self._totals


def _failures(rows: pd.DataFrame, rules: pandera.DataFrameSchema) -> dict[int, str]:
    """Tell the first reason against each bad row."""
    try:
        rules.validate(rows, lazy=True)
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


def _encodable(value: Any) -> Any:
    # JSON can hold half of a character pair, which no file can.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _shown(text: Any) -> str:
    return text[:500] if isinstance(text, str) else ""


def read(path: Path, batch_rows: int = 50_000) -> Iterator[pd.DataFrame]:
    """Stream a prepared Parquet file."""
    for batch in pq.ParquetFile(path).iter_batches(batch_rows):
        yield batch.to_pandas()
