"""The parts of a running server, and what all its routes do: know the client, read the body, write the log."""

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from evergreen.logs import get_logger
from evergreen.monitoring.log import Feedback, LoggedPrediction, LogUnavailable, PredictionLog
from evergreen.monitoring.log_writer import LogWriter
from evergreen.serving.dispatcher import Dispatcher
from evergreen.serving.jobs import Jobs
from evergreen.serving.log_group import LogGroup
from evergreen.serving.metrics import ServerMetrics
from evergreen.serving.models import Models
from evergreen.serving.problems import RefusedError, describe_errors
from evergreen.serving.security import ApiKeys, RateLimit
from evergreen.settings import ServingSettings

Body = TypeVar("Body", bound=BaseModel)

logger = get_logger(__name__)


@dataclass
class Service:
    """The parts of a running server."""

    settings: ServingSettings
    models: Models
    keys: ApiKeys
    rate_limit: RateLimit
    metrics: ServerMetrics
    dispatcher: Dispatcher
    log: PredictionLog
    writer: LogWriter
    log_group: LogGroup
    jobs: Jobs
    reports: Path
    """Folder of the monitor's reports."""
    refuses_unlogged: bool
    """Whether requests are refused while the log can't be written; else their rows are kept in files."""
    is_draining: bool = False

    def identify(self, request: Request) -> str:
        """Return the name of the client's key, and count the request.

        Raises:
            RefusedError: 401 for a wrong key, 429 for too many requests.
        """
        client = self.keys.identify(request.headers.get("authorization"))
        try:
            self.rate_limit.check(client)
        except RefusedError:
            self.metrics.refused.labels("rate limit").inc()
            raise
        return client

    def check_log(self) -> None:
        """Refuse early what could not be logged in the end.

        Raises:
            RefusedError: 503 while the log can't be written and nothing may be answered without it.
        """
        if self.refuses_unlogged and not self.writer.state.available:
            raise self._log_problem()

    async def write_log(self, predictions: list[LoggedPrediction], feedback: list[Feedback] | None = None) -> None:
        """Return once the rows are durable.

        Raises:
            RefusedError: 503 when they can't be.
        """
        try:
            await self.log_group.write(predictions, feedback or [])
        except LogUnavailable as error:  # a row that the database refuses is a bug, which waiting won't mend
            raise self._log_problem() from error

    def _log_problem(self) -> RefusedError:
        self.metrics.refused.labels("log unavailable").inc()
        detail = "The prediction log can't be written, and nothing is answered without it. Come back later."
        return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "2"})


async def read_json(request: Request, kind: type[Body]) -> Body:
    """Read the body of a request.

    Raises:
        RefusedError: 415 for another media type, 400 for what isn't JSON, 422 for each wrong field.
    """
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send JSON, with Content-Type: application/json")
    try:
        # Straight from the bytes: wrong UTF-8, deep nesting and huge numbers are errors here, not crashes.
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise describe_errors(error) from error
