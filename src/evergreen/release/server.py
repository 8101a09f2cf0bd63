"""A running server, as a release asks it."""

import time
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr, ValidationError

from evergreen.errors import EvergreenError
from evergreen.metrics import Metrics
from evergreen.monitoring.log import PROBE_CALLER_ID

_TIMEOUT = 30.0


class ServerError(EvergreenError):
    """The server gave no usable answer; the message names the path, what came and what to look at.

    Attributes:
        status: of the answer; 0 where none came, or one that can't be read.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_down(self) -> bool:
        """Whether nothing answers there, or only a proxy that has nobody to pass a request to."""
        return self.status in (0, *range(500, 600))


class Answer(Metrics):
    """A text's, from `/v1/classify`."""

    label: str
    probabilities: dict[str, float]


class _Answers(Metrics):
    predictions: list[Answer]


class Server:
    """Asks a server for the length of a block.

    Args:
        url: its address, as https://HOST.
        api_key: empty: it asks for none.
    """

    def __init__(self, url: str, api_key: SecretStr) -> None:
        self.url = url.rstrip("/")
        key = api_key.get_secret_value()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._client.close()

    def ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Ask for a path.

        Args:
            method: as GET.
            path: on the server.
            content: `json` or `files`, as httpx takes them.

        Raises:
            ServerError: here as below, without an answer, or with one that is no success.
        """
        try:
            response = self._client.request(method, path, **content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(
                f"{self.url}{path}: no answer ({type(error).__name__}). Check that the server runs and can be reached."
            ) from error
        if not response.is_success:
            detail = " ".join(response.text.split())[:200]
            remedy = " Set EVERGREEN_API_KEY." if response.status_code == httpx.codes.UNAUTHORIZED else ""
            raise ServerError(f"{self.url}{path}: {response.status_code} {detail}{remedy}", response.status_code)
        return response

    def ask_json(self, method: str, path: str, **content: Any) -> Any:
        """Ask for a path that answers with JSON."""
        try:
            return self.ask(method, path, **content).json()
        except ValueError as error:
            raise ServerError(f"{self.url}{path}: no JSON. Check that the address is the server's.") from error

    def classify(self, texts: list[str]) -> list[Answer]:
        """Ask for the labels of texts in one request."""
        if len(texts) == 1:
            body: dict[str, Any] = {"text": texts[0], "id": PROBE_CALLER_ID}
        else:
            body = {"texts": texts, "ids": [PROBE_CALLER_ID] * len(texts)}
        answer = self.ask_json("POST", "/v1/classify", json=body)
        try:
            answers = _Answers.model_validate(answer).predictions
        except ValidationError as error:
            raise ServerError(f"{self.url}/v1/classify: not predictions. Check that the address is right.") from error
        if len(answers) != len(texts):
            raise ServerError(f"{self.url}/v1/classify: {len(answers)} predictions for {len(texts)} texts.")
        return answers

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until requests are taken.

        Raises:
            ServerError: when that takes longer.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                self.ask("GET", "/ready")
            except ServerError as error:
                if time.monotonic() >= end:
                    raise ServerError(f"not ready within {seconds:g} s: {error}", error.status) from error
                time.sleep(min(0.5, seconds))
            else:
                return
