"""Live answers and the labels that come back: `POST /v1/classify`, `POST /v1/feedback`."""

import asyncio
import json
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from evergreen.monitoring.log import Feedback, LogError, LoggedPrediction
from evergreen.serving.dispatcher import Answer, OverloadedError, PredictionError
from evergreen.serving.models import VIDEO_LABELS
from evergreen.serving.problems import RefusedError, describe_responses
from evergreen.serving.schemas import (
    ClassifyResponse,
    FeedbackRequest,
    FeedbackResponse,
    limit_requests,
)
from evergreen.serving.service import Service, read_json


def add_live_routes(app: FastAPI, service: Service) -> None:
    """Add the routes to the server's application."""
    settings = service.settings
    request_class = limit_requests(settings.max_texts, settings.max_characters)

    @app.post(
        "/v1/classify",
        summary="Classify one text or several",
        response_model=ClassifyResponse,
        responses=describe_responses(*_ERRORS, HTTPStatus.SERVICE_UNAVAILABLE),
        openapi_extra=describe_body(request_class),
    )
    async def classify(request: Request) -> Response:
        client = service.identify(request)
        items = (await read_json(request, request_class)).items
        service.check_log()
        answers = await _predict(service, [text for text, _ in items])
        rows = [_make_row(answer, caller_id, client) for answer, (_, caller_id) in zip(answers, items, strict=True)]
        await service.write_log(rows)
        for row in rows:
            service.metrics.predictions.labels("text", row.model, row.label).inc()
        return Response(_write_answer(rows), media_type="application/json")

    @app.post(
        "/v1/feedback",
        summary="Say which label a prediction should have had",
        response_model=FeedbackResponse,
        responses=describe_responses(*_ERRORS, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
        openapi_extra=describe_body(FeedbackRequest),
    )
    async def give_feedback(request: Request) -> FeedbackResponse:
        service.identify(request)
        given = await read_json(request, FeedbackRequest)
        service.check_log()
        prediction = await asyncio.to_thread(_find_prediction, service, given)
        allowed = VIDEO_LABELS if prediction.kind == "video" else service.models.text.labels
        if given.label not in allowed:
            labels = ", ".join(allowed)
            raise RefusedError(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"label {given.label!r}: unknown. The labels are: {labels}."
            )
        stored = Feedback(prediction.id, given.source, given.label, datetime.now(UTC))
        await service.write_log([], [stored])
        service.metrics.feedback.labels(prediction.kind, given.label).inc()
        return FeedbackResponse(prediction_id=prediction.id, label=given.label, source=given.source)


_ERRORS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
)


def describe_body(kind: type[Any]) -> dict[str, Any]:
    """Describe the body of a route that reads it by itself."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _predict(service: Service, texts: list[str]) -> list[Answer]:
    try:
        return await service.dispatcher.predict(texts, service.settings.request_timeout)
    except OverloadedError as error:
        reason, detail = "overload", "Too many texts wait already. Come back in a moment."
        cause: Exception = error
    except TimeoutError as error:
        reason, detail = "timeout", "No answer in time. Come back in a moment."
        cause = error
    except PredictionError as error:
        reason, detail = "failure", "The text could not be predicted. The server's log says why."
        cause = error
    service.metrics.refused.labels(reason).inc()
    raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"}) from cause


def _make_row(answer: Answer, caller_id: str | None, client: str) -> LoggedPrediction:
    probabilities = dict(zip(answer.labels, answer.probabilities, strict=True))
    return LoggedPrediction(
        id=uuid.uuid4().hex,
        caller_id=caller_id,
        kind="text",
        source="live",
        label=max(probabilities, key=probabilities.__getitem__),
        probabilities=probabilities,
        model=answer.model,
        text=answer.cleaned,
        client=client,
        observed_at=datetime.now(UTC),
    )


def _write_answer(rows: list[LoggedPrediction]) -> bytes:
    predictions = [
        {"id": row.id, "caller_id": row.caller_id, "label": row.label, "probabilities": row.probabilities}
        for row in rows
    ]
    return json.dumps({"model": rows[0].model, "predictions": predictions}).encode()


def _find_prediction(service: Service, given: FeedbackRequest) -> LoggedPrediction:
    name, value = ("prediction_id", given.prediction_id) if given.prediction_id else ("caller_id", given.caller_id)
    try:
        prediction = service.log.find(prediction_id=given.prediction_id, caller_id=given.caller_id)
    except LogError as error:
        detail = "The prediction log can't be read. Come back later."
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "2"}) from error
    if prediction is None and service.writer.state.spooled:
        detail = f"{name} {value!r}: not in the log yet, which takes up rows kept in files. Come back later."
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "2"})
    if prediction is None:
        raise RefusedError(HTTPStatus.NOT_FOUND, f"{name} {value!r}: no prediction has it. It may have been pruned.")
    return prediction
