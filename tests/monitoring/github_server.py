"""A GitHub on 127.0.0.1 for tests: issues, comments, labels and webhooks, and it fails as it is told to."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

Fault = Literal["500", "502 after", "reset", "reset after", "limit", "429", "401", "long limit"]
TOKEN = "ghp_SecretOfTheTests0123456789"


class GitHubServer:
    """Keeps what was written, so that tests can look at it.

    Attributes:
        next_fault: asked before each request; what it answers happens to the request.
        most_open: the largest number of issues that were open at one time.
        messages: bodies of what came to the webhooks, by path.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.token = TOKEN
        self.issues: list[dict[str, Any]] = []
        self.comments: dict[int, list[dict[str, Any]]] = {}
        self.labels: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[str] = []
        self.next_fault: Callable[[str], Fault | None] = lambda _path: None
        self.most_open = 0
        self.drops_labels = False
        self.url = ""

    @property
    def open_issues(self) -> list[dict[str, Any]]:
        return [issue for issue in self.issues if issue["state"] == "open"]

    def add_issue(self, **fields: Any) -> dict[str, Any]:
        number = len(self.issues) + 1
        address = f"{self.url}/repos/acme/reviews/issues/{number}"
        labels = [] if self.drops_labels else [{"name": name} for name in fields.pop("labels", [])]
        fields.pop("labels", None)
        issue = {"number": number, "id": number, "state": "open", "labels": labels, "url": address} | fields
        issue["html_url"] = address
        self.issues.append(issue)
        self.comments[number] = []
        self.most_open = max(self.most_open, len(self.open_issues))
        return issue

    def answer(  # noqa: PLR0911 - a return for each route
        self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]
    ) -> tuple[int, Any]:
        """Do what a request asks for."""
        parts = path.removeprefix(f"{self.prefix}/repos/acme/reviews/").split("/")
        match method, parts:
            case "GET", ["issues"]:
                wanted = query["labels"][0]
                return 200, [issue for issue in self.open_issues if wanted in [row["name"] for row in issue["labels"]]]
            case "POST", ["issues"]:
                body["labels"] = [name for name in body["labels"] if name in self.labels]
                return 201, self.add_issue(**body)
            case "GET", ["issues", number]:
                return 200, self.issues[int(number) - 1]
            case "PATCH", ["issues", number]:
                issue = self.issues[int(number) - 1]
                issue |= body
                self.most_open = max(self.most_open, len(self.open_issues))
                return 200, issue
            case "GET", ["issues", number, "comments"]:
                return 200, self.comments[int(number)]
            case "POST", ["issues", number, "comments"]:
                self.comments[int(number)].append(body | {"id": time.time_ns()})
                return 201, body
            case "GET", ["labels", name] if name in self.labels:
                return 200, self.labels[name]
            case "PATCH", ["labels", name]:
                return 200, self.labels[name]
            case "POST", ["labels"]:
                if body["name"] in self.labels:
                    return 422, {"message": "Validation Failed"}
                address = f"{self.url}/repos/acme/reviews/labels/{body['name']}"
                self.labels[body["name"]] = body | {"url": address}
                return 201, self.labels[body["name"]]
        return 404, {"message": "Not Found"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PATCH = do_GET  # noqa: N815 - as the base class calls them

    def _handle(self) -> None:
        state, address = self.server.state, urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        state.requests.append(f"{self.command} {address.path}")
        fault = state.next_fault(address.path)
        if fault == "reset":
            self._cut()
            return
        failure = _describe_fault(fault)
        if failure is None or fault == "502 after":
            status, answer = self._answer(address.path, parse_qs(address.query), body)
        if fault == "reset after":
            self._cut()
            return
        headers: dict[str, str] = {}
        if failure is not None:
            status, answer, headers = failure
        self._reply(status, answer, headers)

    def _answer(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any]:
        state = self.server.state
        if path.startswith("/hook/"):
            state.messages.setdefault(path, []).append(body)
            return 200, {}
        if self.headers["Authorization"] != f"token {state.token}":
            return 401, {"message": "Bad credentials"}
        if not re.match(re.escape(state.prefix) + "/repos/acme/reviews/", path):
            return 404, {"message": "Not Found"}
        return state.answer(self.command, path, query, body)

    def _reply(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _describe_fault(fault: Fault | None) -> tuple[int, Any, dict[str, str]] | None:
    reset = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()))}
    failures: dict[Fault, tuple[int, str, dict[str, str]]] = {
        "500": (500, "Server Error", {}),
        "502 after": (502, "Bad Gateway", {}),
        "401": (401, "Bad credentials", {}),
        "429": (429, "Too many requests", {"Retry-After": "0"}),
        "limit": (403, "API rate limit exceeded for installation.", reset),
        "long limit": (403, "You have exceeded a secondary rate limit.", {"Retry-After": "3600"}),
    }
    if fault is None or fault not in failures:
        return None
    status, message, headers = failures[fault]
    return status, {"message": message}, headers


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    state: GitHubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections that the test cut


@contextmanager
def serve_github(prefix: str = "") -> Iterator[GitHubServer]:
    state = GitHubServer(prefix)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.state = state
    state.url = f"http://127.0.0.1:{server.server_address[1]}{prefix}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
