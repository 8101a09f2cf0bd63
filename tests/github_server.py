"""GitHub's REST API on this machine, for tests: checked against GitHub's own description, and it fails as it is told to."""

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock, Thread
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from github_description import Description
from github_git import may_use, run_backend
from github_objects import ApiError, Call, Rows, Site
from github_pages import Pages
from github_routes import GitHubRoutes

Fault = Literal["500", "502 after", "reset", "reset after", "limit", "429", "401", "403", "long limit"]
TOKEN = "ghp_SecretOfTheTests0123456789"
_Answer = tuple[int, Any, dict[str, str]]
# Names of branches, refs and tags have slashes.
_WITH_SLASHES = ("ref", "branch", "tag")


class GitHubServer(GitHubRoutes):
    """The state and what came.

    Attributes:
        url: of the API.
        certificate: to be trusted, where it answers over TLS.
        token: the one that is accepted.
        requests: method and path of each.
        next_fault: asked before each request; what it answers happens to the request.
        messages: bodies of what came to the webhooks, by path.
        violations: calls and answers that GitHub's description does not allow; `serve_github` raises them.
        description: None where it is missing, and nothing is checked.
        pages: what it shows to people, without a token.
    """

    def __init__(self, prefix: str = "", git_folder: Path | None = None) -> None:
        super().__init__(git_folder)
        self.prefix = prefix
        self.token = TOKEN
        self.url = ""
        self.certificate: Path | None = None
        self.messages: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[str] = []
        self.next_fault: Callable[[str], Fault | None] = lambda _path: None
        self.violations: list[str] = []
        self.description = Description.load()
        self.pages = Pages(self)
        self._lock = RLock()
        members = (getattr(type(self), name) for name in dir(type(self)))
        routes = [(*member.operation, member) for member in members if hasattr(member, "operation")]
        # The most literal first: /branches/{branch}/protection before /branches/{branch}.
        routes.sort(key=lambda row: -len(re.sub(r"{\w+}", "", row[1])))
        self._routes = [(method, template, _compile(template), route) for method, template, route in routes]

    def set_url(self, web: str) -> None:
        """Set the address of the host, once it is known."""
        self.url = web + self.prefix
        self.site = Site(self.url, web, self.repository)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> _Answer:
        """Do what a request asks for, if GitHub's description allows it and the answer."""
        with self._lock:
            for verb, template, pattern, route in self._routes:
                match = pattern.fullmatch(path.removeprefix(self.prefix))
                if match and verb == method and path.startswith(self.prefix):
                    call = Call({name: unquote(value) for name, value in match.groupdict().items()}, query, body)
                    return self._answer_call(method, template, route, call)
            return self._report(400, f"{method} {path}", ["the stand-in has no such route"])

    def show_page(self, path: str) -> tuple[int, str, bytes] | None:
        """What people see at a path, as `Pages.render` gives it."""
        with self._lock:
            return self.pages.render(path)

    def _answer_call(self, method: str, template: str, route: Callable[..., Any], call: Call) -> _Answer:
        operation = f"{method} {template}"
        check = self.description
        problems = check.check_request(method, template, call.parameters, call.query, call.body) if check else []
        if problems:
            return self._report(400, operation, problems)
        headers: dict[str, str] = {}
        try:
            if "repo" in call.parameters and f"{call['owner']}/{call['repo']}" != self.repository:
                raise ApiError(404)
            status, content = route(self, call)
        except ApiError as error:
            status, content = error.status, error.body
        except Exception as error:  # noqa: BLE001, RUF100 - a bug of the stand-in, to be seen at the end of the block
            return self._report(500, operation, [f"{type(error).__name__}: {error}"])
        if isinstance(content, Rows):
            content, headers = self._paginate(template, content, call)
        content = json.loads(json.dumps(content))  # later changes are none of this answer
        problems = check.check_response(method, template, status, content) if check else []
        return self._report(500, operation, problems) if problems else (status, content, headers)

    def _report(self, status: int, operation: str, problems: list[str]) -> _Answer:
        self.violations += [f"{operation}: {problem}" for problem in problems]
        return status, {"message": f"{operation}: {'; '.join(problems)}", "status": str(status)}, {}

    def _paginate(self, template: str, content: Rows, call: Call) -> tuple[Any, dict[str, str]]:
        size = min(int(call.query.get("per_page", 30)), 100)
        page = int(call.query.get("page", 1))
        last = max(1, -(-len(content.rows) // size))
        rows = content.rows[(page - 1) * size : page * size]
        path = re.sub(r"{(\w+)}", lambda match: call[match[1]], template)
        targets = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
        if page >= last:
            del targets["next"], targets["last"]
        if page <= 1:
            del targets["prev"], targets["first"]
        links = [
            f'<{self.url}{path}?{urlencode(call.query | {"page": str(target)})}>; rel="{name}"'
            for name, target in targets.items()
        ]
        headers = {"Link": ", ".join(links)} if links else {}
        return ({"total_count": len(content.rows), content.key: rows} if content.key else rows), headers


def _compile(template: str) -> re.Pattern[str]:
    """A pattern of the paths of a template."""
    parts = re.split(r"{(\w+)}", template)
    names = [f"(?P<{name}>{'.+' if name in _WITH_SLASHES else '[^/]+'})" for name in parts[1::2]]
    literals = [re.escape(part) for part in parts[::2]]
    return re.compile("".join(literal + name for literal, name in zip(literals, [*names, ""], strict=True)))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - as the base class calls them

    def _handle(self) -> None:
        state, address = self.server.state, urlsplit(self.path)
        content = self._read()
        state.requests.append(f"{self.command} {address.path}")
        fault = state.next_fault(address.path)
        if fault == "reset":
            self._cut()
            return
        failure = _describe_fault(fault)
        if failure is None or fault == "502 after":
            git_path = address.path.partition(f"/{state.repository}.git/")[2]
            query = dict(parse_qsl(address.query, keep_blank_values=True))
            answer = (
                self._answer_git(f"/{git_path}", address, content)
                if git_path
                else self._answer(address.path, query, content)
            )
        if fault == "reset after":
            self._cut()
            return
        self._reply(*(answer if failure is None else failure))

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""  # Git sends a large pack so
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer_git(self, path: str, address: SplitResult, content: bytes) -> _Answer:
        state = self.server.state
        if not may_use(self.headers, state.token, address, state.private):
            return 401, b"", {"WWW-Authenticate": 'Basic realm="GitHub"'}
        if state.refs.folder is None:
            return 404, b"", {}
        status, headers, body = run_backend(state.refs.folder, path, self.command, address.query, self.headers, content)
        return status, body, headers

    def _answer(self, path: str, query: dict[str, str], content: bytes) -> _Answer:
        state = self.server.state
        try:
            body = json.loads(content) if content else None
        except ValueError:
            state.violations.append(f"{self.command} {path}: the body is no JSON")
            return 400, {"message": "Problems parsing JSON"}, {}
        if path.startswith("/hook/"):
            state.messages.setdefault(path, []).append(body or {})
            return 200, {}, {}
        page = state.show_page(path) if self.command == "GET" else None
        if page:
            return page[0], page[2], {"Content-Type": page[1]}
        scheme, _, token = (self.headers["Authorization"] or "").partition(" ")
        if scheme.lower() not in ("token", "bearer") or token != state.token:
            return 401, {"message": "Bad credentials"}, {}
        return state.answer(self.command, path, query, body)

    def _reply(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        """Send what is answered: bytes of Git's, nothing, or JSON."""
        described = {"Content-Type": "application/json; charset=utf-8"}
        if answer is None or isinstance(answer, bytes):
            answer, described = answer or b"", {}
        else:
            answer = json.dumps(answer).encode()
        if status != 204:
            described["Content-Length"] = str(len(answer))
        self.send_response(status)
        for name, value in (described | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _describe_fault(fault: Fault | None) -> _Answer | None:
    reset = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()))}
    failures: dict[Fault, tuple[int, str, dict[str, str]]] = {
        "500": (500, "Server Error", {}),
        "502 after": (502, "Bad Gateway", {}),
        "401": (401, "Bad credentials", {}),
        "429": (429, "Too many requests", {"Retry-After": "0"}),
        "403": (403, "Resource not accessible by integration", {}),
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


def _write_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a key and a certificate that names this machine and signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    encoding = serialization.Encoding.PEM
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(encoding))
    private = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(encoding, private, serialization.NoEncryption()))
    return certificate_file, key_file


@contextmanager
def serve_github(prefix: str = "", tls: bool = False, git_folder: Path | None = None) -> Iterator[GitHubServer]:
    """Serve for the length of a block.

    Args:
        prefix: of the API's paths; enterprise hosts have /api/v3.
        tls: answer over TLS, at https://localhost.
        git_folder: a bare Git repository with the branches, also to fetch from and push to at its `clone_url`;
            without it branches are names in memory.

    Raises:
        AssertionError: at the block's end, when a call or an answer was not as GitHub describes it.
    """
    state = GitHubServer(prefix, git_folder)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.state = state
    state.set_url(f"http{'s://localhost' if tls else '://127.0.0.1'}:{server.server_address[1]}")
    with TemporaryDirectory() as folder:
        if tls:
            state.certificate, key = _write_certificate(Path(folder))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(state.certificate, key)
            # Each handshake is its own thread's, so that a slow client holds up nobody.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
    assert not state.violations, "not as GitHub describes it:\n" + "\n".join(state.violations)
