"""What answers callers in a rehearsal: containers of the released images, or processes, behind one address."""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
from running import find_port

_STAND_IN = Path(__file__).with_name("docker_stand_in.py")


class Production:
    """The servers, and the front that passes callers to one that is ready.

    Args:
        folder: of images, containers' notes and state.
        engine: variables with which docker/build and docker/run work here, `ENGINE` among them; none: processes.
    """

    def __init__(self, folder: Path, engine: dict[str, str]) -> None:
        self.folder = folder
        self._tools = folder / "tools"
        self._tools.mkdir(parents=True)
        docker = self._tools / "docker"
        docker.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{_STAND_IN}" "$@"\n')
        cosign = self._tools / "cosign"
        cosign.write_text(f'#!/bin/sh\necho "cosign $*" >> "{folder}/docker.log"\n')
        for tool in (docker, cosign):
            tool.chmod(0o755)
        self._ports = [find_port(), find_port()]
        self.port = find_port()
        self.environment = {
            "PATH": f"{self._tools}:{os.environ['PATH']}",
            "REHEARSAL_FOLDER": str(folder),
            "REHEARSAL_ENGINE": engine.get("ENGINE", ""),
            "REHEARSAL_PORTS": json.dumps(self._ports),
            # docker/compose.yaml asks for them.
            "POSTGRES_PASSWORD": "rehearsal",
            "EVERGREEN_API_KEYS": "",
        } | engine
        self._front = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._front.start()

    @property
    def url(self) -> str:
        """Where callers ask."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_url(self) -> str:
        """The prediction log of the servers."""
        return f"sqlite:///{self.folder / 'state' / 'predictions.db'}"

    def read_model(self) -> dict[str, str]:
        """What the server says of its model."""
        return httpx.get(f"{self.url}/v1/model", timeout=30).raise_for_status().json()["text"]

    def mount_text_bundle(self, bundle: Path | None) -> None:
        """Put a text bundle over that of the images that are started from now on, as a volume left there would."""
        note = self.folder / "mount-text"
        note.unlink(missing_ok=True)
        if bundle is not None:
            note.write_text(str(bundle))

    def close(self) -> None:
        """End the servers that still run."""
        try:
            containers = json.loads((self.folder / "containers.json").read_text())
        except FileNotFoundError:
            return
        for row in containers.values():
            with suppress(ProcessLookupError):
                os.kill(row["pid"], signal.SIGTERM)
        end = time.monotonic() + 60
        for row in containers.values():
            while Path(f"/proc/{row['pid']}").exists() and time.monotonic() < end:
                with suppress(ChildProcessError):
                    os.waitpid(row["pid"], os.WNOHANG)
                time.sleep(0.1)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port)
        async with server:
            await server.serve_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a caller with the newest server that is ready."""
        for port in await asyncio.to_thread(self._find_ready):
            with suppress(OSError):
                upstream = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
                return
        writer.close()

    def _find_ready(self) -> list[int]:
        """Ports of servers that are ready, the newest first."""
        with suppress(FileNotFoundError):
            rows = json.loads((self.folder / "containers.json").read_text()).values()
            return [row["port"] for row in reversed(rows) if _is_ready(row["port"])]
        return []


def _is_ready(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=2).status_code == 200
    return False


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
