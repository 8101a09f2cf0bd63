"""The one form that errors are answered in: problem details (RFC 9457)."""

from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from evergreen.logs import get_logger

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

    async def answer_http(_request: Request, error: Exception) -> Response:
        known = cast(HTTPException, error)
        headers = dict(known.headers) if known.headers else None
        detail = _DETAILS.get(known.status_code, str(known.detail))
        return RefusedError(HTTPStatus(known.status_code), detail, headers=headers).to_response()

    async def answer_bug(request: Request, error: Exception) -> Response:
        # Without the traceback's values, which could hold texts.
        logger.error("a request failed", path=request.url.path, error=type(error).__name__)
        detail = "The server failed; its log says where. Try again, and report it if it stays."
        return RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, detail).to_response()

    app.add_exception_handler(RefusedError, answer)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Exception, answer_bug)


def describe_responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Describe these errors for the schema of a route."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        int(status): {"description": status.phrase, "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }
