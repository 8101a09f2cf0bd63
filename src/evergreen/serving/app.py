"""The server's application: its routes, what stands before them, and what starts and stops with it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evergreen import __version__
from evergreen.serving.job_routes import add_job_routes
from evergreen.serving.jobs import KINDS, PATHS
from evergreen.serving.live import add_live_routes
from evergreen.serving.metrics import MeasureRequests
from evergreen.serving.problems import ProblemDetails, RefusedError, describe_responses, handle_problems
from evergreen.serving.schemas import Health, ModelsResponse
from evergreen.serving.security import BodyLimit, SecurityHeaders
from evergreen.serving.service import Service

PAGE = Path(__file__).parent / "page"

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(service: Service, lifespan: Lifespan) -> FastAPI:
    """Build the application of a server."""
    app = FastAPI(
        title="Evergreen",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    handle_problems(app)
    add_live_routes(app, service)
    for kind in KINDS:
        add_job_routes(app, service, kind)
    _add_model_routes(app, service)
    _add_operations_routes(app, service)
    app.mount("/page", StaticFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    async def show_page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    _describe_schema(app, bool(service.keys.hashes))
    _add_middleware(app, service)
    return app


def _add_model_routes(app: FastAPI, service: Service) -> None:
    settings = service.settings
    errors = describe_responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS)

    @app.get("/v1/model", summary="The models that are served, with their cards", responses=errors)
    async def describe_models(request: Request) -> ModelsResponse:
        service.identify(request)
        limits = {
            "texts": settings.max_texts,
            "characters": settings.max_characters,
            "body_bytes": settings.max_body_bytes,
            "upload_bytes": settings.max_upload_bytes,
        }
        return ModelsResponse(text=service.models.text, video=service.models.video, limits=limits)

    @app.get(
        "/v1/monitoring/{name}",
        summary="The monitor's latest verdict or report",
        response_class=FileResponse,
        responses=errors | describe_responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def get_report(request: Request, name: str) -> FileResponse:
        service.identify(request)
        files = {file.name: file for file in service.reports.glob("*") if file.suffix in (".json", ".html")}
        if name not in files:
            raise RefusedError(HTTPStatus.NOT_FOUND, "The monitor has left no such report yet.")
        return FileResponse(files[name], headers={"Content-Security-Policy": "sandbox allow-scripts"})


def _add_operations_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the server is alive")
    async def health() -> Health:
        return Health(status="ok")

    @app.get(
        "/ready",
        summary="Whether the server takes requests",
        response_model=Health,
        responses={int(HTTPStatus.SERVICE_UNAVAILABLE): {"model": Health, "description": "It does not."}},
    )
    async def ready() -> Response:
        problems = _list_problems(service)
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        body = Health(status="unavailable" if problems else "ok", problems=problems)
        return JSONResponse(body.model_dump(), status)

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _list_problems(service: Service) -> list[str]:
    problems = []
    if service.is_draining:
        problems.append("The server is stopping.")
    if not service.dispatcher.workers:
        problems.append("No worker has loaded the model yet.")
    log = service.writer.state
    if not log.available and service.refuses_unlogged:
        problems.append("The prediction log can't be written; the server's log says why.")
    return problems


def _describe_schema(app: FastAPI, needs_key: bool) -> None:
    """Add to the schema what routes that read their own bodies can't tell FastAPI."""
    build = app.openapi

    def describe() -> dict[str, Any]:
        schema = build()
        components = schema.setdefault("components", {})
        problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
        components.setdefault("schemas", {}).update(problem.pop("$defs", {}) | {"ProblemDetails": problem})
        if needs_key:
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    if path.startswith("/v1/"):
                        operation["security"] = [{"key": []}]
        return schema

    app.openapi = describe  # type: ignore[method-assign]


class CloseWhileDraining:
    """Ask clients to come back over a new connection, which a balancer leads to another server by then."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._service.is_draining:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_closing)


def _add_middleware(app: FastAPI, service: Service) -> None:
    """Add what every request passes; the last one added is the first one passed."""
    settings = service.settings
    limits = {"/": settings.max_body_bytes} | dict.fromkeys(PATHS.values(), settings.max_upload_bytes)
    app.add_middleware(BodyLimit, limits=limits, timeout=settings.body_timeout)
    if origins := [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"]
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(CloseWhileDraining, service=service)
    app.add_middleware(MeasureRequests, metrics=service.metrics)
