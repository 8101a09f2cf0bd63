"""What requests and answers hold."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model, model_validator
from pydantic.config import JsonDict, JsonValue

# Printable, since databases and logs refuse control characters. Written as JSON Schema understands it.
CallerId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\u0000-\u001f\u007f-\u009f]+$")]
Source = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _require_one(*names: str, **excluded: list[str]) -> JsonDict:
    """Say in JSON Schema that one of some fields is given, and which others must not be beside it.

    Args:
        names: the fields.
        excluded: for a field, what doesn't go with it.
    """
    choices: list[JsonValue] = []
    for name in names:
        absent = [other for other in names if other != name] + excluded.get(name, [])
        properties: JsonDict = {other: {"type": "null"} for other in absent}
        properties[name] = {"not": {"type": "null"}}
        choices.append({"required": [name], "properties": properties})
    return {"oneOf": choices}


class ClassifyRequest(_Strict):
    """One text or several; the limits of the server at hand are in its schema."""

    model_config = ConfigDict(json_schema_extra=_require_one("text", "texts", text=["ids"], texts=["id"]))

    text: str | None = None
    texts: list[str] | None = None
    id: CallerId | None = None
    """The caller's own id of `text`; feedback may name it later."""
    ids: list[CallerId] | None = None
    """The same for each of `texts`."""

    @model_validator(mode="after")
    def _check_shape(self) -> "ClassifyRequest":
        if (self.text is None) == (self.texts is None):
            raise ValueError("give text or texts, one of the two")
        if self.id is not None and self.text is None:
            raise ValueError("id goes with text; write ids for texts")
        if self.ids is not None and self.texts is None:
            raise ValueError("ids goes with texts; write id for text")
        if self.ids is not None and len(self.ids) != len(self.texts or []):
            raise ValueError("ids must be as many as texts")
        return self

    @property
    def items(self) -> list[tuple[str, str | None]]:
        """Each text with the caller's id."""
        if self.text is not None:
            return [(self.text, self.id)]
        texts = self.texts or []
        ids: list[str | None] = [*self.ids] if self.ids else [None] * len(texts)
        return list(zip(texts, ids, strict=True))


def limit_requests(max_texts: int, max_characters: int) -> type[ClassifyRequest]:
    """Make the request's class with the limits of a server, so that its schema states them."""
    text = Annotated[str, StringConstraints(min_length=1, max_length=max_characters)]
    return create_model(
        "ClassifyRequest",
        __base__=ClassifyRequest,
        __doc__="One text, or several at once.",
        text=(Annotated[text | None, Field()], None),
        texts=(Annotated[list[text], Field(min_length=1, max_length=max_texts)] | None, None),
        ids=(Annotated[list[CallerId], Field(max_length=max_texts)] | None, None),
    )


class TextPrediction(BaseModel):
    """The answer to one text."""

    id: str
    """Names this prediction in feedback."""
    caller_id: str | None = None
    label: str
    probabilities: dict[str, float]
    """Calibrated, of each label."""


class ClassifyResponse(BaseModel):
    """Predictions in the order of the texts."""

    model: str
    """Name, version and run of the bundle that answered."""
    predictions: list[TextPrediction]


class FeedbackRequest(_Strict):
    """The label that a prediction should have had."""

    model_config = ConfigDict(json_schema_extra=_require_one("prediction_id", "caller_id"))

    prediction_id: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    caller_id: CallerId | None = None
    """Instead of `prediction_id`: the newest prediction with that id is meant."""
    label: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    source: Source = "user"
    """Who says so: each source has one say, its newest."""

    @model_validator(mode="after")
    def _check_target(self) -> "FeedbackRequest":
        if (self.prediction_id is None) == (self.caller_id is None):
            raise ValueError("give prediction_id or caller_id, one of the two")
        return self


class FeedbackResponse(BaseModel):
    """Feedback that is stored."""

    prediction_id: str
    label: str
    source: str


class ModelInfo(BaseModel):
    """A model that is served."""

    name: str
    version: str
    run: str
    labels: list[str]
    data_hash: str
    trained_at: str
    data_cutoff: str | None = None
    max_length: int | None = None
    sha256: dict[str, str]
    """Of each file."""
    card: str | None
    """Markdown."""


class ModelsResponse(BaseModel):
    """The models that are served."""

    text: ModelInfo
    video: ModelInfo | None
    limits: dict[str, int]


JobStatus = Literal["queued", "running", "succeeded", "failed", "canceled"]


class JobResponse(BaseModel):
    """A job that goes on after the request."""

    id: str
    kind: Literal["batch", "video"]
    status: JobStatus
    file: str
    """Its name as it was sent."""
    created_at: datetime
    progress: float = Field(ge=0, le=1)
    detail: str | None = None
    """Why it failed."""
    summary: dict[str, Any] | None = None
    """Figures of a job that succeeded."""
    results: list[str] = []
    """Paths of its results, once it succeeded."""


class Health(BaseModel):
    """Whether the server is alive, or ready for requests."""

    status: Literal["ok", "unavailable"]
    problems: list[str] = []
    """What it waits for, and what to do about it."""
