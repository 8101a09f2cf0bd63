"""The connection to the prediction log's database: SQLite or PostgreSQL, how each is set up, and its migrations."""

import json
import os
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)

from evergreen.errors import EvergreenError
from evergreen.logs import redact

CONNECT_TIMEOUT = 3
"""Seconds to wait for a connection, or in SQLite for the lock of another writer."""
STATEMENT_TIMEOUT = 5
"""Seconds that a write to PostgreSQL may take, waiting for its turn included."""
MIGRATION_TIMEOUT = 60
"""Seconds to wait while another process migrates."""
# Any numbers of our own: they keep apart the locks that PostgreSQL offers to applications.
_WRITE_LOCK = 0x45564752_01
_MIGRATION_LOCK = 0x45564752_02
_ALEMBIC = threading.Lock()  # its context is one for the process


class LogError(EvergreenError):
    """The prediction log can't do what was asked; the message names it and the remedy."""


class LogUnavailable(LogError):  # noqa: N818 - a state that passes
    """The prediction log can't be reached or written now; it may be later."""


def parse_url(url: str) -> URL:
    """Check the address of a log; a relative path is fixed to where the process is now.

    Raises:
        LogError: when it is no address of a SQLite file or of PostgreSQL.
    """
    allowed = "Write sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME as DATABASE_URL."
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise LogError(f"{redact(url)}: not the address of a database. {allowed}") from error
    backend = parsed.get_backend_name()
    if backend in ("postgres", "postgresql"):  # as some providers write it
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or not parsed.database or parsed.database == ":memory:" or parsed.query:
        raise LogError(f"{redact(url)}: not a database that the log can use. {allowed}")
    return parsed.set(drivername="sqlite", database=str(Path(parsed.database).resolve()))


def make_engine(url: URL) -> Engine:
    """Set up an engine that connects when first used; its errors never show the values of a statement."""
    dumps = partial(json.dumps, ensure_ascii=False, allow_nan=False)  # PostgreSQL takes no NaN
    options: dict[str, Any] = {"hide_parameters": True, "json_serializer": dumps, "pool_timeout": CONNECT_TIMEOUT}
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": CONNECT_TIMEOUT}, **options)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    timeouts = {"connect_timeout": CONNECT_TIMEOUT, "tcp_user_timeout": 1000 * STATEMENT_TIMEOUT}
    arguments = {name: value for name, value in timeouts.items() if name not in url.query}
    return create_engine(url, connect_args=arguments, **options)


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    connection.execute("PRAGMA synchronous = FULL")  # in WAL mode, NORMAL may lose commits when the power fails
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # a text that was pruned is gone from the file as well


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: one that read first can't wait for it.
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def take_turn(connection: Connection) -> None:
    """Wait until this transaction alone writes, so that rows become visible in the order of their `seq`.

    Else a reader that resumes after a `seq` could miss a lower one that was committed later.
    """
    if connection.dialect.name == "postgresql":
        # Local to the transaction, since a pooler may hand the session to others.
        limit = f"{STATEMENT_TIMEOUT}s"
        connection.execute(
            text(
                "SELECT set_config('statement_timeout', :limit, true), set_config('lock_timeout', :limit, true), "
                "set_config('idle_in_transaction_session_timeout', :limit, true), pg_advisory_xact_lock(:lock)"
            ),
            {"limit": limit, "lock": _WRITE_LOCK},
        )


def migrate(engine: Engine) -> None:
    """Create the log, or bring an older one up to date, one process at a time."""
    if engine.dialect.name == "sqlite":
        _prepare_file(engine)
    with engine.execution_options(write=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            limit = {"limit": f"{MIGRATION_TIMEOUT}s", "lock": _MIGRATION_LOCK}
            connection.execute(
                text("SELECT set_config('lock_timeout', :limit, true), pg_advisory_xact_lock(:lock)"), limit
            )
        _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - takes a while, and only migrating needs it
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util.exc import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "evergreen.monitoring:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        with _ALEMBIC:
            command.upgrade(config, "head")
    except CommandError as error:
        raise LogError(
            f"prediction log {redact(connection.engine.url.render_as_string())}: can't be migrated ({error}). "
            "If a newer Evergreen wrote it, install that one; else name another DATABASE_URL."
        ) from error


def _prepare_file(engine: Engine) -> None:
    path = Path(str(engine.url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # what was said to the model is for nobody else
    deadline = time.monotonic() + MIGRATION_TIMEOUT
    connection = sqlite3.connect(path, timeout=CONNECT_TIMEOUT, isolation_level=None)
    try:
        while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:  # here SQLite does not wait for others that do the same
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
    finally:
        connection.close()


def empty_wal(engine: Engine) -> None:
    """Move what was written into the SQLite file itself, so that the write-ahead log keeps no deleted text."""
    if engine.dialect.name != "sqlite":
        return
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    finally:
        connection.close()


def wrap_error(url: URL, error: Exception) -> LogError:
    """Say what failed and the remedy, without credentials and without the row."""
    name = redact(url.render_as_string(hide_password=True))
    cause = describe_error(error)
    if _is_about_row(error):
        return LogError(f"prediction log {name}: a row can't be written ({cause}). Correct its values.")
    sqlite = url.get_backend_name() == "sqlite"
    remedy = (
        "Check that the folder is writable, the disk has room and no other program locks the file."
        if sqlite
        else "Check that the server runs and accepts this user, and that DATABASE_URL is right."
    )
    return LogUnavailable(f"prediction log {name}: unavailable ({cause}). {remedy}")


def _is_about_row(error: BaseException | None) -> bool:
    """Whether it is a value that the database or its driver refuses, and not the database that fails."""
    if isinstance(error, StatementError):
        if isinstance(error, DataError | IntegrityError):
            return True
        if isinstance(error, ProgrammingError | InterfaceError):
            # The driver's own complaint has no SQLSTATE, unlike a missing table or permission in PostgreSQL.
            is_broken = isinstance(error, DBAPIError) and error.connection_invalidated
            return not is_broken and getattr(error.orig, "sqlstate", None) is None
        return _is_about_row(error.orig)
    return isinstance(error, ValueError | TypeError | OverflowError)


def describe_error(error: BaseException) -> str:
    """The kind of an error and its first line: what follows in PostgreSQL's may quote the row."""
    if isinstance(error, StatementError) and error.orig is not None:
        error = error.orig
    first = next(iter(str(error).splitlines()), "")
    return redact(f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__)


def is_lost_connection(error: Exception) -> bool:
    """Whether a connection broke, so that another may work at once."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


ERRORS: tuple[type[Exception], ...] = (SQLAlchemyError, OSError, ValueError, TypeError, OverflowError, sqlite3.Error)
"""What a database, its driver or a value that it can't take may raise."""
