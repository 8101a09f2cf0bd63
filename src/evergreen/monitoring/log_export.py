"""The prediction log as a file: JSON lines, CSV or Parquet, written as it is read, there whole or not at all."""

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from evergreen.errors import EvergreenError
from evergreen.monitoring.log import LabeledPrediction
from evergreen.sources import upload

_STRINGS = ("id", "caller_id", "kind", "source", "label", "model", "text", "text_hash", "client")
COLUMNS = (
    "seq",
    *_STRINGS,
    "probabilities",
    "observed_at",
    "feedback_label",
    "feedback_source",
    "feedback_received_at",
)
_GROUP_ROWS = 10_000  # of a Parquet file


class ExportError(EvergreenError):
    """The file can't be written in that format."""

    exit_code = 2


def export(rows: Iterable[LabeledPrediction], out: str) -> int:
    """Write rows to a file, in constant memory, and return how many.

    Args:
        rows: as `PredictionLog.stream` gives them.
        out: a path or an address such as s3://BUCKET/NAME; its suffix gives the format: .jsonl, .csv or .parquet.

    Raises:
        ExportError: for another suffix.
        SourceError: when an address can't be written.
    """
    suffix = Path(out).suffix.lower()
    write = _WRITERS.get(suffix)
    if write is None:
        raise ExportError(f"{out}: unknown format {suffix or '(no suffix)'}. Name it .jsonl, .csv or .parquet.")
    with _replace_file(out) as file:
        return write(map(_flatten, rows), file)


@contextmanager
def _replace_file(out: str) -> Iterator[Path]:
    """Give a file to write, which takes its place once all of it is there."""
    is_remote = "://" in out
    folder = None if is_remote else Path(out).resolve().parent
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".export-", suffix=".partial", dir=folder)
    partial = Path(name)
    try:
        os.close(handle)
        yield partial
        if is_remote:
            upload(partial, out)
        else:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _flatten(row: LabeledPrediction) -> dict[str, Any]:
    prediction, feedback = row.prediction, row.feedback
    values: dict[str, Any] = {name: getattr(prediction, name) for name in _STRINGS}
    return values | {
        "seq": row.seq,
        "probabilities": prediction.probabilities,
        "observed_at": prediction.observed_at,
        "feedback_label": feedback and feedback.label,
        "feedback_source": feedback and feedback.source,
        "feedback_received_at": feedback and feedback.received_at,
    }


def _write_json_lines(rows: Iterator[dict[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            values = {name: row[name] for name in COLUMNS}
            file.write(json.dumps(values, ensure_ascii=False, default=lambda time: time.isoformat()) + "\n")
            count += 1
    return count


def _write_csv(rows: Iterator[dict[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            received_at = row["feedback_received_at"]
            times = {
                "observed_at": row["observed_at"].isoformat(),
                "feedback_received_at": received_at and received_at.isoformat(),
            }
            writer.writerow(row | times | {"probabilities": json.dumps(row["probabilities"], ensure_ascii=False)})
            count += 1
    return count


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> int:
    import pyarrow as pa  # noqa: PLC0415 - for this format only
    import pyarrow.parquet as pq  # noqa: PLC0415

    time, number = pa.timestamp("us", tz="UTC"), pa.map_(pa.string(), pa.float64())
    types = {"seq": pa.int64(), "probabilities": number, "observed_at": time, "feedback_received_at": time}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, _GROUP_ROWS)):
            for row in group:
                row["probabilities"] = list(row["probabilities"].items())
            writer.write_table(pa.Table.from_pylist(group, schema))
            count += len(group)
    return count


_WRITERS: dict[str, Callable[[Iterator[dict[str, Any]], Path], int]] = {
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
