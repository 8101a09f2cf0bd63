"""Fetch and push of the stand-in for GitHub: Git's own server for HTTP, behind the token."""

import base64
import os
import subprocess
from email.message import Message
from pathlib import Path
from urllib.parse import SplitResult

_BACKEND = ("git", "http-backend")


def may_use(headers: Message, token: str, address: SplitResult, is_private: bool) -> bool:
    """Whether a request of Git has the token, where one is needed: for a push, and a private repository."""
    if not is_private and "git-receive-pack" not in f"{address.path}?{address.query}":
        return True
    scheme, _, value = (headers.get("Authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        return False
    return base64.b64decode(value).decode().partition(":")[2] == token


def run_backend(
    folder: Path, path: str, method: str, query: str, headers: Message, content: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Answer a request of Git: status, headers, body.

    Args:
        folder: the bare repository.
        path: within it, such as /info/refs.
        method, query, headers, content: of the request.
    """
    environment = os.environ | {
        "GIT_PROJECT_ROOT": str(folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": path,
        "REQUEST_METHOD": method,
        "QUERY_STRING": query,
        "REMOTE_USER": "x-access-token",  # a push needs a name
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": headers.get("Content-Type") or "",
        "CONTENT_LENGTH": str(len(content)),
        "HTTP_CONTENT_ENCODING": headers.get("Content-Encoding") or "",
        "GIT_PROTOCOL": headers.get("Git-Protocol") or "",
    }
    done = subprocess.run(_BACKEND, env=environment, input=content, capture_output=True, check=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    answered = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    return int(answered.pop("Status", "200").split()[0]), answered, body
