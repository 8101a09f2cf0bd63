"""Structured logs, of this package and of its libraries: JSON lines when not on a terminal, no text and no secret."""

import logging
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import structlog

_PRIVATE = {
    "text",
    "texts",
    "token",
    "key",
    "api_key",
    "password",
    "secret",
    "authorization",
}  # also as a name's last part

# Names and passwords in an address, and secrets among its query. A password may hold an unquoted / or @, so
# all up to the last @ goes; hf://ORG/MODEL@REVISION has none.
_CREDENTIALS = re.compile(r"(?<!\bhf:)//(?:[^\s/@]*:\S*|[^\s/]*)@")
_SECRET = re.compile(r"([?&][\w.-]*(?:token|passw|secret|signature|key|credential|sig)[\w.-]*=)[^&\s]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Hide the credentials of every address in a text."""
    return _SECRET.sub(r"\1***", _CREDENTIALS.sub("//***@", text))


def _redact_event(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {name: _redact_value(name, value) for name, value in event.items()}


def _redact_value(name: str, value: Any) -> Any:
    lower = str(name).lower()
    if lower in _PRIVATE or lower.rpartition("_")[2] in _PRIVATE:  # hf_token, aws_secret_access_key, …
        return "(hidden)"
    if isinstance(value, Mapping):
        return {inner: _redact_value(inner, item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_value("", item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else redact(str(value))


def locate(error: BaseException) -> list[str]:
    """Where an error was raised, the last places only: its message and its traceback could hold a text."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]


class _CurrentStderr(logging.StreamHandler[Any]):
    """Writes to standard error as it is when something is logged, which tests and progress bars replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def configure(level: str = "warning") -> None:
    """Send the logs of this package and of its libraries to standard error, at `level` and above."""
    number = getattr(logging, level.upper())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    handler = _CurrentStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact_event, render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> Any:
    """Return the logger of a module."""
    if not structlog.is_configured():
        configure()
    return structlog.get_logger(name, module=name)
