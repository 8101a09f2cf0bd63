"""Structured logs: JSON lines when not on a terminal, quiet by default, never a text or a secret."""

import logging
import sys
from collections.abc import Mapping, MutableMapping
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


def _hide_private(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {name: _shown(name, value) for name, value in event.items()}


def _shown(name: str, value: Any) -> Any:
    lower = str(name).lower()
    if lower in _PRIVATE or lower.rpartition("_")[2] in _PRIVATE:  # hf_token, aws_secret_access_key, …
        return "(hidden)"
    if isinstance(value, Mapping):
        return {inner: _shown(inner, item) for inner, item in value.items()}
    return [_shown("", item) for item in value] if isinstance(value, list | tuple) else value


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
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is when something is logged
        cache_logger_on_first_use=False,
    )


def get(name: str) -> Any:
    """Return the logger of a module."""
    if not structlog.is_configured():
        configure()
    return structlog.get_logger(module=name)
