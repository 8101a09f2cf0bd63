"""Files to classify and videos to judge, answered as jobs: `/v1/batches`, `/v1/videos`."""

import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi import Path as PathParameter
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import FileResponse, JSONResponse, Response

from evergreen.serving.jobs import PATHS, SUFFIXES, Kind
from evergreen.serving.problems import RefusedError, describe_responses
from evergreen.serving.schemas import JobResponse
from evergreen.serving.service import Service

_ABOUT = {
    "batch": ("texts", "Classify the texts of a file"),
    "video": ("a video", "Judge a video: 1 where it holds an anomaly, else 0"),
}

JobId = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{32}$", description="As the answer to the upload named it.")]


class _DiskParser(MultiPartParser):
    """Keeps an upload on disk; LitServe lets every parser hold it in memory."""

    spool_max_size = 1 << 20
    max_file_size = 1 << 20  # the same limit by its older name


def add_job_routes(app: FastAPI, service: Service, kind: Kind) -> None:
    """Add the routes of one kind of job to the server's application."""
    path, (content, summary) = PATHS[kind], _ABOUT[kind]
    jobs = service.jobs
    formats = ", ".join(SUFFIXES[kind])
    missing = describe_responses(
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )

    @app.post(
        path,
        name=f"create {kind}",
        summary=summary,
        description=f"Takes {content} as a file ({formats}) and answers with a job to ask for.",
        status_code=HTTPStatus.ACCEPTED,
        response_model=JobResponse,
        responses=describe_responses(*_UPLOAD_ERRORS),
        openapi_extra=_FORM,
    )
    async def create(request: Request) -> Response:
        client = service.identify(request)
        jobs.check_room(kind)  # before all of the file is sent for nothing
        async with _read_upload(request) as file:
            job = await jobs.create(kind, client, file.filename or "", _read_parts(file))
        headers = {"Location": f"{path}/{job.id}"}
        return JSONResponse(jobs.describe(job).model_dump(mode="json"), HTTPStatus.ACCEPTED, headers)

    @app.get(
        path,
        name=f"list {kind}",
        summary="List your jobs",
        responses=describe_responses(
            HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE
        ),
    )
    async def list_jobs(request: Request) -> list[JobResponse]:
        return [jobs.describe(job) for job in jobs.find(kind, service.identify(request))]

    @app.get(f"{path}/{{job_id}}", name=f"get {kind}", summary="How a job does", responses=missing)
    async def get(request: Request, job_id: JobId) -> JobResponse:
        return jobs.describe(jobs.get(kind, service.identify(request), job_id))

    @app.delete(
        f"{path}/{{job_id}}",
        name=f"cancel {kind}",
        summary="Cancel a job, or remove one that is done",
        status_code=HTTPStatus.NO_CONTENT,
        responses=missing,
    )
    async def cancel(request: Request, job_id: JobId) -> Response:
        jobs.cancel(jobs.get(kind, service.identify(request), job_id))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    @app.get(
        f"{path}/{{job_id}}/{{name}}",
        name=f"get {kind} result",
        summary="Download a result",
        response_class=FileResponse,
        responses=missing | describe_responses(HTTPStatus.CONFLICT),
    )
    async def get_result(request: Request, job_id: JobId, name: str) -> FileResponse:
        result = jobs.get_result(jobs.get(kind, service.identify(request), job_id), name)
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return FileResponse(result, media_type=media_type, filename=name)


_UPLOAD_ERRORS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.INSUFFICIENT_STORAGE,
)

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@asynccontextmanager
async def _read_upload(request: Request) -> AsyncIterator[UploadFile]:
    """Store the one file of a form in a temporary one.

    Raises:
        RefusedError: for another media type, a broken form, or one without a file.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        detail = "Send a form with the file: curl -F file=@NAME"
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
    try:
        form = await _DiskParser(request.headers, request.stream(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"The form can't be read. {error.message}") from error
    except ValueError as error:  # of an encoding that the media type names
        raise RefusedError(HTTPStatus.BAD_REQUEST, "The form can't be read. Send it as UTF-8.") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile) or not file.filename:
            raise RefusedError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "The form has no file. Name the field file, with a name."
            )
        yield file
    finally:
        await form.close()


async def _read_parts(file: UploadFile) -> AsyncIterator[bytes]:
    while part := await file.read(1 << 20):
        yield part
