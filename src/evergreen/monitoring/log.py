"""The prediction log: what was served, and the labels that came back for it, in SQLite or PostgreSQL."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Row, delete, func, literal, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from evergreen.monitoring.log_database import (
    ERRORS,
    LogError,
    LogUnavailable,
    empty_wal,
    is_lost_connection,
    make_engine,
    migrate,
    parse_url,
    take_turn,
    wrap_error,
)
from evergreen.monitoring.log_schema import feedback as feedback_table
from evergreen.monitoring.log_schema import predictions as predictions_table
from evergreen.monitoring.log_schema import probe

__all__ = ["Feedback", "LabeledPrediction", "LogError", "LogUnavailable", "LoggedPrediction", "PredictionLog"]

PROBE_CALLER_ID = "evergreen-release"
"""Of texts that a release sends to see how the server does: no caller's, so the monitor leaves them out."""
RANDOM_SOURCE, SELECTED_SOURCE = "label", "label-selected"
"""Of labels that `evergreen label import` takes: for predictions that were drawn at random, and for all others."""
TextPolicy = Literal["cleaned", "hash", "none"]
_T = TypeVar("_T")

_PRUNE_ROWS = 1000  # deleted in one transaction, which writers wait for: some ten milliseconds


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """A prediction as the log keeps it.

    Attributes:
        id: unique; writing a row with an id that is there changes nothing.
        caller_id: what the caller names the text, if anything.
        model: name, version and run digest of the bundle.
        text: cleaned; the log keeps it, its hash or neither, by its text policy.
        text_hash: SHA-256 of the text; the log fills it in.
        client: name of the API key.
        observed_at: with a time zone.
    """

    id: str
    kind: Literal["text", "video"]
    source: Literal["live", "batch", "video"]
    label: str
    probabilities: dict[str, float]
    model: str
    observed_at: datetime
    caller_id: str | None = None
    text: str | None = None
    text_hash: str | None = None
    client: str | None = None

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: when it is something else.
        """
        try:
            return cls.from_values(json.loads(line))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a prediction: {error}") from error

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Make a row of what `to_values` returned."""
        return cls(**values | {"observed_at": datetime.fromisoformat(values["observed_at"])})

    def to_json(self) -> bytes:
        """Write the row as one line of JSON, its end included."""
        return encode_line(self.to_values())

    def to_values(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them."""
        return _get_values(self) | {"observed_at": self.observed_at.isoformat()}


@dataclass(frozen=True, slots=True)
class Feedback:
    """A label that came back for a prediction; a source's later one replaces its earlier one."""

    prediction_id: str
    source: str
    label: str
    received_at: datetime

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Make a row of what `to_values` returned."""
        return cls(**values | {"received_at": datetime.fromisoformat(values["received_at"])})

    def to_values(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them."""
        return _get_values(self) | {"received_at": self.received_at.isoformat()}


@dataclass(frozen=True, slots=True)
class LabeledPrediction:
    """A prediction with its place in the order of arrival and the newest feedback of any source."""

    seq: int
    prediction: LoggedPrediction
    feedback: Feedback | None


def encode_line(value: Any) -> bytes:
    """One line of JSON in ASCII, which holds any text, whole characters or not."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"


_PREDICTION_COLUMNS = [predictions_table.c[field.name] for field in fields(LoggedPrediction)]
_FEEDBACK_COLUMNS = [feedback_table.c[field.name] for field in fields(Feedback)]
_FEEDBACK_ORDER = (feedback_table.c.received_at, feedback_table.c.prediction_id, feedback_table.c.source)


class PredictionLog:
    """The log in one database; cheap to make, connects when first used, may be handed to other processes.

    Args:
        url: as SQLAlchemy writes it: sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME.
        text_policy: what is kept of a text: itself, its SHA-256 or nothing.
    """

    def __init__(self, url: str, text_policy: TextPolicy = "cleaned") -> None:
        self.url = parse_url(url)
        self.text_policy: TextPolicy = text_policy
        self._engine: Engine | None = None
        self._pid = 0
        self._inode: int | None = None
        dialect = sqlite if self.url.get_backend_name() == "sqlite" else postgresql
        self._insert = dialect.insert(predictions_table).on_conflict_do_nothing(index_elements=["id"])
        upsert = dialect.insert(feedback_table)
        new = {"label": upsert.excluded.label, "received_at": upsert.excluded.received_at}
        key = ["prediction_id", "source"]
        self._upsert = upsert.on_conflict_do_update(index_elements=key, set_=new)
        self._replay = upsert.on_conflict_do_update(
            index_elements=key, set_=new, where=upsert.excluded.received_at > feedback_table.c.received_at
        )
        beat = dialect.insert(probe)
        self._probe = beat.on_conflict_do_update(index_elements=["id"], set_={"written_at": beat.excluded.written_at})

    @classmethod
    def open(cls, url: str, text_policy: TextPolicy = "cleaned") -> Self:
        """Open a log, creating or migrating it as needed; several processes may do so at once.

        Args:
            url, text_policy: as for the class.

        Raises:
            LogError: naming the database and the remedy; LogUnavailable where trying later may help.
        """
        log = cls(url, text_policy)
        log.migrate()
        return log

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url.render_as_string(hide_password=False), self.text_policy)

    def migrate(self) -> None:
        """Create the log's tables, or bring older ones up to date.

        Raises:
            LogError: as `open` does.
        """
        try:
            migrate(self._get_engine())
        except ERRORS as error:
            raise wrap_error(self.url, error) from error
        self._inode = self._get_inode()

    def close(self) -> None:
        """Close the connections; the log connects again when used."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def _get_engine(self) -> Engine:
        engine, pid = self._engine, os.getpid()
        if engine is None or self._pid != pid:
            if engine is not None:
                engine.dispose(close=False)  # its connections belong to the parent process
            engine = make_engine(self.url)
            self._engine, self._pid, self._inode = engine, pid, self._get_inode()
            self._writer = engine.execution_options(write=True)  # made once: that takes longer than the write
        return engine

    def _get_inode(self) -> int | None:
        if self.url.get_backend_name() != "sqlite":
            return None
        try:
            return os.stat(str(self.url.database)).st_ino  # noqa: PTH116 - before each write, so as cheap as can be
        except OSError:
            return None

    def _check_file(self) -> None:
        """Notice that a SQLite file was removed or replaced: what is written to the open one would be lost."""
        if self._inode is not None and self._get_inode() != self._inode:
            self.close()
            raise LogUnavailable(f"prediction log {self.url.database}: removed or replaced. Leave the file in place.")

    def _run(self, work: Callable[[Connection], _T], write: bool = False) -> _T:
        """Do work in one transaction; once more when a connection from the pool turns out to be broken."""
        if write:
            self._check_file()
        for is_last in (False, True):
            try:
                engine = self._get_engine()
                with (self._writer if write else engine).begin() as connection:
                    if write:
                        take_turn(connection)
                    return work(connection)
            except ERRORS as error:
                if is_last or not is_lost_connection(error):
                    raise wrap_error(self.url, error) from error
        raise AssertionError("unreachable")

    def insert(self, rows: Iterable[LoggedPrediction]) -> None:
        """Write predictions in one transaction; rows whose id is there already are left as they are.

        Args:
            rows: with the cleaned text, to which the text policy is applied.

        Raises:
            LogUnavailable: when the log can't be written.
            LogError: when a row can't be written; then none was.
        """
        self.write(rows)

    def write(
        self, predictions: Iterable[LoggedPrediction], feedback: Iterable[Feedback] = (), replayed: bool = False
    ) -> None:
        """Write predictions and feedback in one transaction.

        Args:
            predictions: as for `insert`.
            feedback: each replaces the label that its source gave before.
            replayed: the rows are late: feedback replaces only what was received earlier.

        Raises:
            LogUnavailable, LogError: as for `insert`.
        """
        rows = [_get_values(self.apply_policy(row)) for row in predictions]
        labels = [_get_values(label) for label in feedback]

        def write(connection: Connection) -> None:
            if rows:
                connection.execute(self._insert, rows)
            if labels:
                connection.execute(self._replay if replayed else self._upsert, labels)

        if rows or labels:
            self._run(write, write=True)

    def apply_policy(self, row: LoggedPrediction) -> LoggedPrediction:
        """Keep of a row's text what the policy allows; a row that went through it stays as it is."""
        if self.text_policy == "none" or (row.text is None and row.text_hash is None):
            return row if row.text is row.text_hash is None else replace(row, text=None, text_hash=None)
        text, text_hash = row.text, row.text_hash
        if text is not None:
            text_hash = text_hash or hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            # PostgreSQL keeps no NUL, and no database half of a surrogate pair.
            kept = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
            text = None if self.text_policy == "hash" else kept
        return replace(row, text=text, text_hash=text_hash)

    def probe(self) -> None:
        """Write one row and commit it.

        Raises:
            LogUnavailable: when that fails.
        """
        row = {"id": 1, "written_at": datetime.now(UTC)}
        self._run(lambda connection: connection.execute(self._probe, row), write=True)

    def find(self, *, prediction_id: str | None = None, caller_id: str | None = None) -> LoggedPrediction | None:
        """Find the newest prediction with an id, or with the id that the caller gave it.

        Args:
            prediction_id, caller_id: one of the two.

        Raises:
            LogUnavailable: when the log can't be read.
        """
        if (prediction_id is None) == (caller_id is None):
            raise TypeError("give either prediction_id or caller_id")
        column = predictions_table.c.id if caller_id is None else predictions_table.c.caller_id
        query = (
            select(*_PREDICTION_COLUMNS)
            .where(column == (prediction_id if caller_id is None else caller_id))
            .order_by(predictions_table.c.seq.desc())
            .limit(1)
        )
        row = self._run(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _make_prediction(row)

    def stream(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        after_seq: int | None = None,
        batch_rows: int = 1000,
    ) -> Iterator[LabeledPrediction]:
        """Read predictions in their order of arrival, up to what is there at the start, in constant memory.

        Args:
            since, until: bounds of `observed_at`, the second excluded.
            after_seq: resume after a row read before.
            batch_rows: how many rows are read at a time; between two reads nothing is locked.

        Raises:
            LogUnavailable: when the log can't be read.
        """
        table = predictions_table
        conditions: list[ColumnElement[bool]] = []
        if since is not None:
            conditions.append(table.c.observed_at >= since)
        if until is not None:
            conditions.append(table.c.observed_at < until)
        bounds = select(func.min(table.c.seq), func.max(table.c.seq)).where(*conditions)
        first, last = self._run(lambda connection: connection.execute(bounds).one())
        if first is None:
            return
        seq = max(first - 1, after_seq if after_seq is not None else first - 1)
        while seq < last:
            page, labels = self._read_page(conditions, seq, last, batch_rows)
            for row in page:
                yield LabeledPrediction(row.seq, _make_prediction(row), labels.get(row.id))
            if len(page) < batch_rows:
                return
            seq = page[-1].seq

    def _read_page(
        self, conditions: Sequence[ColumnElement[bool]], after: int, last: int, batch_rows: int
    ) -> tuple[Sequence[Row[Any]], dict[str, Feedback]]:
        table = predictions_table
        query = (
            select(table.c.seq, *_PREDICTION_COLUMNS)
            .where(*conditions, table.c.seq > after, table.c.seq <= last)
            .order_by(table.c.seq)
            .limit(batch_rows)
        )

        def read(connection: Connection) -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
            page = connection.execute(query).all()
            if not page:
                return page, []
            newest_last = (
                select(*_FEEDBACK_COLUMNS)
                .join(table, table.c.id == feedback_table.c.prediction_id)
                .where(table.c.seq.between(page[0].seq, page[-1].seq))
                .order_by(feedback_table.c.received_at, feedback_table.c.source)
            )
            return page, connection.execute(newest_last).all()

        page, labels = self._run(read)
        return page, {row.prediction_id: Feedback(**row._mapping) for row in labels}

    def stream_feedback(
        self, after: datetime, until: datetime, batch_rows: int = 1000
    ) -> Iterator[tuple[LoggedPrediction, Feedback]]:
        """Read feedback in the order of its arrival, each label with its prediction, in constant memory.

        Feedback whose prediction is not there (yet) is left out.

        Args:
            after, until: bounds of `received_at`, the first excluded.
            batch_rows: as for `stream`.

        Raises:
            LogUnavailable: when the log can't be read.
        """
        table = feedback_table
        position: ColumnElement[bool] = table.c.received_at > after
        while True:
            labels, predictions = self._read_feedback_page([position, table.c.received_at <= until], batch_rows)
            for label in labels:
                if prediction := predictions.get(label.prediction_id):
                    yield prediction, label
            if len(labels) < batch_rows:
                return
            position = tuple_(*_FEEDBACK_ORDER) > tuple_(
                *(literal(getattr(labels[-1], column.name), column.type) for column in _FEEDBACK_ORDER)
            )

    def _read_feedback_page(
        self, conditions: Sequence[ColumnElement[bool]], batch_rows: int
    ) -> tuple[list[Feedback], dict[str, LoggedPrediction]]:
        query = select(*_FEEDBACK_COLUMNS).where(*conditions).order_by(*_FEEDBACK_ORDER).limit(batch_rows)

        def read(connection: Connection) -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
            page = connection.execute(query).all()
            ids = [row.prediction_id for row in page]
            predicted = select(*_PREDICTION_COLUMNS).where(predictions_table.c.id.in_(ids))
            return page, connection.execute(predicted).all()

        page, predicted = self._run(read)
        return [Feedback(**row._mapping) for row in page], {row.id: _make_prediction(row) for row in predicted}

    def prune(self, older_than: datetime) -> int:
        """Delete the predictions observed before a time, with their feedback, a few at a time; return how many.

        Args:
            older_than: with a time zone; feedback received before it, whose prediction is gone, goes as well.

        Raises:
            LogUnavailable: when the log can't be written; what was deleted before stays deleted.
        """
        total = self._delete_in_chunks(lambda connection: _prune_predictions(connection, older_than))
        self._delete_in_chunks(lambda connection: _prune_feedback(connection, older_than))
        if total:
            empty_wal(self._get_engine())
        return total

    def _delete_in_chunks(self, delete_chunk: Callable[[Connection], int]) -> int:
        total = 0
        while True:
            started = time.monotonic()
            deleted = self._run(delete_chunk, write=True)
            total += deleted
            if deleted < _PRUNE_ROWS:
                return total
            time.sleep(time.monotonic() - started)  # as long for the writers as for this


def _get_values(row: LoggedPrediction | Feedback) -> dict[str, Any]:
    """The fields of a row by name, not copied."""
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def _make_prediction(row: Row[Any]) -> LoggedPrediction:
    return LoggedPrediction(**{name: value for name, value in row._mapping.items() if name != "seq"})


def _prune_predictions(connection: Connection, older_than: datetime) -> int:
    table = predictions_table
    query = select(table.c.seq, table.c.id).where(table.c.observed_at < older_than).limit(_PRUNE_ROWS)
    rows = connection.execute(query).all()
    if rows:
        ids = [row.id for row in rows]
        connection.execute(delete(feedback_table).where(feedback_table.c.prediction_id.in_(ids)))
        connection.execute(delete(table).where(table.c.seq.in_([row.seq for row in rows])))
    return len(rows)


def _prune_feedback(connection: Connection, older_than: datetime) -> int:
    table = feedback_table
    has_prediction = select(predictions_table.c.seq).where(predictions_table.c.id == table.c.prediction_id).exists()
    query = select(table.c.prediction_id).where(table.c.received_at < older_than, ~has_prediction).limit(_PRUNE_ROWS)
    ids = connection.scalars(query).all()
    if ids:
        connection.execute(delete(table).where(table.c.prediction_id.in_(ids)))
    return len(ids)
