"""What Prometheus reads of the monitor's verdict.

The file is read as data from elsewhere: the monitor is another process, maybe of another version, and what it imports
has no place in a server.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Literal, get_args

from prometheus_client.core import GaugeMetricFamily, Metric
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, ValidationError

from evergreen.logs import get_logger

VERDICT = "verdict.json"
"""As `evergreen.monitoring.report` names it."""
MAX_BYTES = 1 << 20

Status = Literal["fresh", "watch", "stale"]

logger = get_logger(__name__)


class SignalState(BaseModel):
    """One signal, as far as Prometheus is concerned. Its name is a label, and so is bounded."""

    signal: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    status: Literal["ok", "alarm", "unknown"]
    value: float | None = None
    threshold: float | None = None


class VerdictState(BaseModel):
    """A verdict, as far as Prometheus is concerned."""

    status: Status
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    until: AwareDatetime
    signals: Annotated[list[SignalState], Field(max_length=64)]


class VerdictCollector:
    """Reads the verdict in a folder of reports when Prometheus asks, if it has changed.

    A file that is missing, damaged or something else gives no series: an old figure would look like a new one.
    """

    def __init__(self, reports: Path) -> None:
        self._file = reports / VERDICT
        self._version: tuple[int, ...] | None = None
        self._verdict: VerdictState | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield a gauge for each figure."""
        self._refresh()
        verdict = self._verdict
        if verdict is None:
            return
        statuses = GaugeMetricFamily("evergreen_verdict", "1 for the monitor's verdict.", labels=["model", "status"])
        for status in get_args(Status):
            statuses.add_metric([verdict.model, status], float(status == verdict.status))
        yield statuses
        until = verdict.until.timestamp()
        yield GaugeMetricFamily("evergreen_verdict_until_seconds", "End of the window judged, in Unix time.", until)
        # By name: a series that is there twice would cost Prometheus the whole answer.
        signals = {signal.signal: signal for signal in verdict.signals}
        for name, help_text, values in (
            ("value", "What a signal measured.", {key: signal.value for key, signal in signals.items()}),
            ("threshold", "Where it begins to matter.", {key: signal.threshold for key, signal in signals.items()}),
            (
                "alarm",
                "1 while a signal gives an alarm; none where it can't judge.",
                {key: float(signal.status == "alarm") for key, signal in signals.items() if signal.status != "unknown"},
            ),
        ):
            family = GaugeMetricFamily(f"evergreen_signal_{name}", help_text, labels=["signal"])
            for key, value in values.items():
                if value is not None:
                    family.add_metric([key], value)
            yield family

    def _refresh(self) -> None:
        try:
            with open(self._file, "rb", opener=_open_at_once) as stream:
                status = os.fstat(stream.fileno())
                version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                if version != self._version:
                    self._version, self._verdict = version, self._parse(stream, status)
        except OSError:
            self._version = self._verdict = None

    def _parse(self, stream: IO[bytes], status: os.stat_result) -> VerdictState | None:
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            logger.warning("not a verdict: no file, or too large", file=str(self._file))
            return None
        try:
            return VerdictState.model_validate_json(stream.read(MAX_BYTES))
        except ValidationError as error:
            logger.warning("not a verdict", file=str(self._file), problems=error.error_count())
            return None


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe of that name must not stop the server."""
    return os.open(path, flags | os.O_NONBLOCK)
