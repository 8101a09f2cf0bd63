"""Who may ask, how often and how much: API keys, rate limits, limits on bodies, security headers."""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evergreen.errors import EvergreenError
from evergreen.serving.problems import RefusedError
from evergreen.settings import ServingSettings

ANONYMOUS = "anonymous"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class SecurityError(EvergreenError):
    """Keys or limits can't be used as they are set; the message says where and what is allowed."""

    exit_code = 2


@dataclass(frozen=True)
class ApiKeys:
    """Named keys, of which only hashes are held; with none, everyone may ask."""

    hashes: Mapping[str, str]
    """SHA-256 by name. A key is long and random, so that nothing slower is needed."""

    @classmethod
    def load(cls, settings: ServingSettings) -> Self:
        """Read the keys of the environment and of the file that it names.

        Raises:
            SecurityError: for an entry that is not NAME:SHA256, a name twice, or a file that can't be read.
        """
        entries = [("EVERGREEN_API_KEYS", entry) for entry in settings.api_keys.split(",")]
        if file := settings.api_keys_file:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise SecurityError(f"{file}: can't be read ({error}). Correct EVERGREEN_API_KEYS_FILE.") from error
            entries += [(f"{file}, line {number}", line) for number, line in enumerate(lines, 1)]
        hashes: dict[str, str] = {}
        for place, entry in entries:
            if not entry.strip() or entry.startswith("#"):
                continue
            name, _, digest = entry.strip().partition(":")
            if not _NAME.fullmatch(name) or not _SHA256.fullmatch(digest.lower()):
                raise SecurityError(f"{place}: not NAME:SHA256. Make a key with: evergreen keys create NAME")
            if name in hashes:
                raise SecurityError(f"{place}: a second key named {name}. Give each its own name.")
            hashes[name] = digest.lower()
        return cls(hashes)

    def identify(self, authorization: str | None) -> str:
        """Return the name of the key in an `Authorization` header.

        Raises:
            RefusedError: 401 for a missing or unknown key.
        """
        if not self.hashes:
            return ANONYMOUS
        scheme, _, key = (authorization or "").partition(" ")
        digest = hash_key(key.strip())
        # Every hash is compared, each in constant time, so that the time says nothing about the keys.
        names = [name for name, expected in self.hashes.items() if hmac.compare_digest(digest, expected)]
        if scheme.lower() != "bearer" or not names:
            detail = "A valid API key is needed. Send it as: Authorization: Bearer KEY"
            raise RefusedError(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})
        return names[0]


def create_key(name: str) -> tuple[str, str]:
    """Make a key and the entry, NAME:SHA256, that lets a server know it.

    Raises:
        SecurityError: when the name has characters other than letters, digits and . _ -
    """
    if not _NAME.fullmatch(name):
        raise SecurityError(f"{name!r}: not a name for a key. Use up to 64 letters, digits, dots, dashes.")
    key = secrets.token_urlsafe(32)
    return key, f"{name}:{hash_key(key)}"


def hash_key(key: str) -> str:
    """Hash a key with SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class RateLimit:
    """So many requests of a key in a moving window of time.

    Raises:
        SecurityError: when the limit is not written as 100/second.
    """

    def __init__(self, limit: str) -> None:
        self._limit: RateLimitItem | None = None
        if limit:
            try:
                self._limit = parse(limit)
            except ValueError as error:
                raise SecurityError(
                    f"EVERGREEN_RATE_LIMIT: {limit!r} is no limit. Write it as 100/second or 5000/hour."
                ) from error
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check(self, client: str) -> None:
        """Count a request.

        Raises:
            RefusedError: 429 when the client has had its share, saying when to come back.
        """
        if self._limit is None or self._limiter.hit(self._limit, client):
            return
        window = self._limit.get_expiry()
        raise RefusedError(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"More than {self._limit.amount} requests in {window} s. Come back later.",
            headers={"Retry-After": str(min(window, 60))},
        )


class BodyLimit:
    """Refuse bodies that are too large or come too slowly, before they are held in memory.

    Args:
        app: what is protected.
        limits: bytes by prefix of the path; the longest prefix counts.
        timeout: seconds in which the next part of a body must come.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int], timeout: float) -> None:
        self._app = app
        self._limits = sorted(limits.items(), key=lambda item: -len(item[0]))
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = next(size for prefix, size in self._limits if scope["path"].startswith(prefix))
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        received = 0
        started = False

        async def receive_limited() -> Message:
            nonlocal received
            if int(declared) > limit:
                raise _too_large(limit)
            try:
                message = await asyncio.wait_for(receive(), self._timeout) if not complete else await receive()
            except TimeoutError:
                raise RefusedError(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"Nothing of the body came for {self._timeout:g} s. Send it faster.",
                    headers={"Connection": "close"},
                ) from None
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            mark(message)
            return message

        complete = False

        def mark(message: Message) -> None:
            nonlocal complete
            complete = message["type"] == "http.request" and not message.get("more_body", False)

        async def send_marked(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive_limited, send_marked)
        except RefusedError as problem:
            if started:
                raise
            await problem.to_response()(scope, receive, send)


def _too_large(limit: int) -> RefusedError:
    return RefusedError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body is larger than {limit} bytes. Send less at a time.",
        headers={"Connection": "close"},
    )


_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
        b"base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"cache-control", b"no-store"),
]


class SecurityHeaders:
    """Tell browsers to run nothing from elsewhere, guess no types and keep no answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(item for item in _HEADERS if item[0] not in present)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
