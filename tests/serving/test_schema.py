"""The schema is true: what it allows is answered as it says, what it does not is refused."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fuzz import SETTINGS, fuzz
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from pydantic import BaseModel, ValidationError
from running import RunningServer, run_server
from tiny_text_bundle import write_bundle

from evergreen.serving.schemas import FeedbackRequest, limit_requests

REQUEST = limit_requests(4, 10)
TEXTS_SCHEMA = Draft202012Validator(REQUEST.model_json_schema())
FEEDBACK_SCHEMA = Draft202012Validator(FeedbackRequest.model_json_schema())
STRINGS = st.none() | st.integers(0, 2) | st.text("ab\x00é", max_size=12)
LISTS = STRINGS | st.lists(st.none() | st.text("ab", max_size=2), max_size=5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    with run_server(folder, write_bundle(folder / "bundle"), **SETTINGS) as running:
        yield running


def accepts(model: type[BaseModel], body: dict[str, Any]) -> bool:
    try:
        model.model_validate_json(json.dumps(body))
    except ValidationError:
        return False
    return True


@given(
    st.fixed_dictionaries({}, optional={"text": STRINGS, "texts": LISTS, "id": STRINGS, "ids": LISTS, "x": st.none()})
)
@settings(max_examples=400, deadline=None)
def test_schema_of_texts_allows_what_is_taken(body: dict[str, Any]) -> None:
    allowed = TEXTS_SCHEMA.is_valid(body)
    texts, ids = body.get("texts"), body.get("ids")
    if allowed and texts and isinstance(ids, list) and len(ids) != len(texts):
        assert not accepts(REQUEST, body)  # no schema can count two lists
    else:
        assert allowed == accepts(REQUEST, body)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(["prediction_id", "caller_id", "label", "source"], STRINGS)))
@settings(max_examples=200, deadline=None)
def test_schema_of_feedback_allows_what_is_taken(body: dict[str, Any]) -> None:
    allowed = FEEDBACK_SCHEMA.is_valid(body)
    assert allowed == accepts(FeedbackRequest, body)


@pytest.mark.slow
def test_answers_are_as_the_schema_says(server: RunningServer) -> None:
    result = fuzz(server.url, n_requests=500, max_examples=20)
    assert sorted(set(result.problems)) == []
    assert result.n_server_errors == 0
    assert {200, 400, 404, 405, 415, 422} <= set(result.statuses)
    operations = server.client.get("/openapi.json").json()["paths"]
    assert result.operations == {f"{name.upper()} {path}" for path, methods in operations.items() for name in methods}
    server.classify()
    assert "Traceback" not in server.read_output()


def test_schema_names_one_form_of_errors(server: RunningServer) -> None:
    schema = server.client.get("/openapi.json").json()
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for methods in schema["paths"].values():
        for operation in methods.values():
            errors = [answer for status, answer in operation["responses"].items() if status >= "4"]
            media_types = {media_type for answer in errors for media_type in answer["content"]}
            assert media_types <= {"application/problem+json", "application/json"}


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/classify", "POST"),
        ("/v1/batches", "GET, POST"),
        (f"/v1/batches/{'0' * 32}", "DELETE, GET"),
        ("/health", "GET"),
    ],
)
def test_other_methods_are_told_which_are_allowed(server: RunningServer, path: str, allowed: str) -> None:
    for method in ("PUT", "PATCH", "OPTIONS", "TRACE", "QUERY"):
        response = server.client.request(method, path)
        assert response.status_code == 405, method
        assert response.headers["allow"] == allowed
        assert response.json()["status"] == 405


def test_wrong_job_ids_are_problems(server: RunningServer) -> None:
    response: httpx.Response = server.client.get("/v1/batches/word7-private")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["pointer"] == "/path/job_id"
    assert "private" not in response.text
