"""The one form that errors are answered in: problem details (RFC 9457)."""

from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evergreen.logs import get_logger, locate

MEDIA_TYPE = "application/problem+json"

logger = get_logger(__name__)


_DETAILS: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "There is nothing at this path. /openapi.json lists what there is.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This path takes another method. /openapi.json says which.",
}


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    pointer: str
    """Where it is, as a JSON pointer (RFC 6901)."""
    detail: str


class ProblemDetails(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Not Found", "status": 404, "detail": "…"}]})

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    """What is wrong and what to do about it."""
    errors: list[FieldProblem] | None = None


class RefusedError(Exception):
    """A request is refused; the answer says why and what to do about it."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: list[FieldProblem] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def to_response(self) -> Response:
        """Build the answer."""
        details = ProblemDetails(title=self.status.phrase, status=self.status, detail=self.detail, errors=self.errors)
        return Response(details.model_dump_json(exclude_none=True), self.status, self.headers, MEDIA_TYPE)


def describe_errors(error: ValidationError) -> RefusedError:
    """Turn what pydantic found into a problem: 400 where the body is no JSON, else 422 with each field."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        return RefusedError(HTTPStatus.BAD_REQUEST, f"The body is not JSON. {details[0]['msg']}.")
    fields = [FieldProblem(pointer=to_pointer(item["loc"]), detail=item["msg"]) for item in details[:20]]
    summary = "; ".join(f"{field.pointer or 'body'}: {field.detail}" for field in fields[:3])
    return RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, summary, errors=fields)


def to_pointer(location: tuple[int | str, ...]) -> str:
    """Write where a field is as a JSON pointer."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}"[:100] for part in location)


def handle_problems(app: FastAPI) -> None:
    """Answer all that goes wrong in an application as problem details."""

    async def answer(_request: Request, error: Exception) -> Response:
        return cast(RefusedError, error).to_response()

    async def answer_http(request: Request, error: Exception) -> Response:
        http_error = cast(HTTPException, error)
        headers = dict(http_error.headers) if http_error.headers else None
        if http_error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": ", ".join(_list_methods(app, request.scope))}
        detail = _DETAILS.get(http_error.status_code, str(http_error.detail))
        return RefusedError(HTTPStatus(http_error.status_code), detail, headers=headers).to_response()

    async def answer_validation(_request: Request, error: Exception) -> Response:
        # Of a path; bodies are read by the routes. Without the value, which could hold anything.
        fields = [
            FieldProblem(pointer=to_pointer(item["loc"]), detail=item["msg"])
            for item in cast(RequestValidationError, error).errors()
        ]
        detail = "; ".join(f"{field.pointer}: {field.detail}" for field in fields)
        return RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=fields).to_response()

    async def answer_nobody(_request: Request, _error: Exception) -> Response:
        return Response(status_code=HTTPStatus.BAD_REQUEST)  # the client has gone

    app.add_exception_handler(RefusedError, answer)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(RequestValidationError, answer_validation)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.add_middleware(AnswerBugs)


def _list_methods(app: FastAPI, scope: Scope) -> list[str]:
    """List the methods of all routes of a path; the framework names those of the first one only."""
    matching = [route for route in app.routes if route.matches(scope)[0] is not Match.NONE]
    return sorted({method for route in matching for method in getattr(route, "methods", None) or ()})


class AnswerBugs:
    """Answer what nobody expected, and log where it was: a traceback's message could hold a client's text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        started = False

        async def send_marked(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception as error:
            if scope["type"] != "http":
                raise
            logger.error("a request failed", error=type(error).__name__, frames=locate(error))
            if not started:  # else the server closes the connection, as the answer is incomplete
                detail = "The server failed; its log says where. Try again, and report it if it stays."
                await RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, detail).to_response()(scope, receive, send)


def describe_responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Describe these errors for the schema of a route."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        int(status): {"description": status.phrase, "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }
