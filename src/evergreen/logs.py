"""Structured logs: JSON lines when not on a terminal, quiet by default, never a text or a secret."""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_PRIVATE = {"text", "texts", "token", "key", "api_key", "password", "secret", "authorization"}


def _hide_private(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    for name in event:
        if name.lower() in _PRIVATE:
            event[name] = "(hidden)"
    return event


def configure(level: str = "warning") -> None:
    """Send logs to standard error at `level` and above."""
    pretty = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _hide_private,
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get(name: str) -> Any:
    """Return the logger of a module."""
    return structlog.get_logger(module=name)
