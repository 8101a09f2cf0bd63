"""Who may ask, how often and how much: API keys, rate limits, limits on bodies, security headers."""

import asyncio
import hashlib
import hmac
import math
import re
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from limits import RateLimitItem, parse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evergreen.errors import EvergreenError
from evergreen.serving.problems import RefusedError
from evergreen.settings import ServingSettings

ANONYMOUS = "anonymous"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
SLOWEST_BODY = 1024
"""Bytes a second that a body must come with, after the time in which its first part must."""
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
            if not entry.strip() or entry.lstrip().startswith("#"):
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
        # The library's own windows follow the wall clock: set back by an hour, they refuse everyone for an hour.
        self._moments: dict[str, deque[float]] = {}

    def check(self, client: str) -> None:
        """Count a request.

        Raises:
            RefusedError: 429 when the client has had its share, saying when to come back.
        """
        if self._limit is None:
            return
        window, amount = self._limit.get_expiry(), self._limit.amount
        moments = self._moments.setdefault(client, deque(maxlen=amount))
        now = time.monotonic()
        if len(moments) < amount or now - moments[0] >= window:
            moments.append(now)
            return
        raise RefusedError(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"More than {amount} requests in {window} s. Come back later.",
            headers={"Retry-After": str(math.ceil(window - (now - moments[0])))},
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
        limit = next((size for prefix, size in self._limits if scope["path"].startswith(prefix)), 0)
        declared = int(dict(scope["headers"]).get(b"content-length", 0))
        await self._app(scope, _Body(receive, declared, limit, self._timeout).receive, send)


class _Body:
    """The body of one request, as far as it is let in; what is refused is answered where errors of routes are."""

    def __init__(self, receive: Receive, declared: int, limit: int, timeout: float) -> None:
        self._receive = receive
        self._declared = declared
        self._limit = limit
        self._timeout = timeout
        self._start = time.monotonic()
        self._received = 0
        self._is_complete = False

    async def receive(self) -> Message:
        if self._is_complete:  # what comes now is the client's leaving, which may take any time
            return await self._receive()
        if self._declared > self._limit:
            raise _too_large(self._limit)
        # Also of a body that comes byte by byte: it would hold its connection for days.
        end = self._start + self._timeout + self._received / SLOWEST_BODY
        try:
            message = await asyncio.wait_for(self._receive(), min(self._timeout, end - time.monotonic()))
        except TimeoutError:
            raise _too_slow(self._timeout) from None
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise _too_large(self._limit)
        self._is_complete = not message.get("more_body", False)
        return message


def _too_slow(timeout: float) -> RefusedError:
    return RefusedError(
        HTTPStatus.REQUEST_TIMEOUT,
        f"The body came too slowly: nothing for {timeout:g} s, or less than {SLOWEST_BODY} bytes a second.",
        headers={"Connection": "close"},
    )


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
