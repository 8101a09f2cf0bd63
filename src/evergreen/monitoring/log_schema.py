"""The tables of the prediction log. A change here needs a migration beside it, in `migrations/versions`."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone, in and out, in SQLite as well, which has no zones; there it is kept as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn into UTC; refuse a time without a zone, since it could mean any."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give the zone back, always UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

# `seq` is the order of arrival whatever the clock does; SQLite must not reuse numbers of rows that were pruned.
_SEQ: Any = BigInteger().with_variant(Integer, "sqlite")

predictions = Table(
    "predictions",
    metadata,
    Column("seq", _SEQ, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("caller_id", String),
    Column("kind", String, nullable=False),
    Column("source", String, nullable=False),
    Column("label", String, nullable=False),
    Column("probabilities", JSON, nullable=False),
    Column("model", String, nullable=False),
    Column("text", Text),
    Column("text_hash", String),
    Column("client", String),
    Column("observed_at", UtcDateTime, nullable=False),
    Index("ix_predictions_caller_id", "caller_id", "seq"),
    Index("ix_predictions_observed_at", "observed_at", "seq"),
    sqlite_autoincrement=True,
)

# No foreign key: while rows wait in the spools of several processes, feedback may arrive before its prediction.
feedback = Table(
    "feedback",
    metadata,
    Column("prediction_id", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("label", String, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Index("ix_feedback_received_at", "received_at"),
)

# One row, written to see whether the log can be written.
probe = Table(
    "probe",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("written_at", UtcDateTime, nullable=False),
)
