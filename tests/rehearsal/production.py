"""What answers callers in a rehearsal: containers of the released images, or processes, behind one address."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from running import find_port

_STAND_IN = Path(__file__).with_name("docker_stand_in.py")
_IMAGES = ("ghcr.io/acme/reviews", "localhost/evergreen-sbom", "localhost/evergreen-rehearsal")
"""Beginnings of the names of images that a rehearsal makes."""


class Production:
    """The servers, and the front that passes callers to one that is ready.

    Args:
        folder: of images, containers' notes and state.
        engine: variables with which docker/build and docker/run work here, `ENGINE` among them; none: processes.
    """

    def __init__(self, folder: Path, engine: dict[str, str]) -> None:
        self.folder = folder
        self._engine = engine
        self._untagged = self._list_untagged()
        self._builder: subprocess.Popen[bytes] | None = None
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

    def prepare_layers(self, checkout: Path) -> None:
        """Begin to build what a release has beside the server's image, so that the first one finds most of its layers.

        Args:
            checkout: that nothing is done in meanwhile, with data and models.
        """
        if self._engine:
            targets = ("monitor", "sbom")
            script = "; ".join(f"TARGET={name} docker/build localhost/evergreen-rehearsal:{name}" for name in targets)
            with (self.folder / "layers.log").open("wb") as log:
                self._builder = subprocess.Popen(
                    ["sh", "-c", script],
                    cwd=checkout,
                    env=os.environ | self._engine,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def close(self) -> None:
        """End the servers that still run, and remove the images that were made."""
        if self._builder and self._builder.poll() is None:
            os.killpg(self._builder.pid, signal.SIGTERM)
            self._builder.wait()
        end_servers(self.folder)
        if self._engine:
            made = [image for image in self._list_images() if image.startswith(_IMAGES)]
            self._call_engine("rmi", "--force", *made)
            self._call_engine("rmi", "--force", *(self._list_untagged() - self._untagged))

    def _list_images(self) -> list[str]:
        return self._call_engine("images", "--format", "{{.Repository}}:{{.Tag}}").split()

    def _list_untagged(self) -> set[str]:
        """Images without a name, which builds leave."""
        return set(self._call_engine("images", "--quiet", "--filter", "dangling=true").split() if self._engine else ())

    def _call_engine(self, *arguments: str) -> str:
        return subprocess.run([self._engine["ENGINE"], *arguments], check=False, capture_output=True, text=True).stdout

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


def end_servers(folder: Path) -> None:
    """End the servers of a rehearsal's production folder that still run, also of one that was killed itself."""
    with suppress(FileNotFoundError):
        pids = [row["pid"] for row in json.loads((folder / "containers.json").read_text()).values()]
        servers = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                server = psutil.Process(pid)
                if server.environ().get("REHEARSAL_FOLDER") == str(folder):  # not another one with its number
                    server.terminate()
                    servers.append(server)
        for server in psutil.wait_procs(servers, timeout=60)[1]:
            server.kill()


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
