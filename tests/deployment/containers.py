"""The image, built and run by whatever engine is there."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import RunningService

from evergreen.settings import AlertSettings, ServingSettings, Settings

REPOSITORY = Path(__file__).parents[2]
BASE_IMAGE = "localhost/debian:bookworm-slim"
DEFAULT_BASE = "docker.io/library/debian:bookworm-slim"
CONFINED = "--no-healthcheck --network host --ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
"""What a container needs that runs inside another one, without systemd."""


class NoEngineError(Exception):
    """No container can be built or run here; the message says what is missing."""


def call(*command: str, timeout: float = 900, **environment: str) -> str:
    """Run a command of the repository and return what it prints."""
    done = subprocess.run(
        command,
        check=False,
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def list_variables() -> set[str]:
    """Every environment variable that evergreen reads."""
    serving = {f"EVERGREEN_{name.upper()}" for name in ServingSettings.model_fields}
    return serving | {str(field.alias) for kind in (Settings, AlertSettings) for field in kind.model_fields.values()}


@cache
def find_engine() -> tuple[str, dict[str, str]]:
    """The engine that works here, and the flags it needs.

    Raises:
        NoEngineError: when there is none.
    """
    if shutil.which("docker") and _works("docker", "info"):
        return "docker", {"BASE_IMAGE": DEFAULT_BASE}
    if not shutil.which("podman"):
        raise NoEngineError("no docker or podman")
    flags = {"BUILD_FLAGS": "--isolation chroot --network host"}
    if _works("podman", "pull", "--quiet", DEFAULT_BASE):
        flags["BASE_IMAGE"] = DEFAULT_BASE
    else:
        flags["BASE_IMAGE"] = BASE_IMAGE
        if not _works("podman", "image", "exists", BASE_IMAGE):
            if os.getuid() or not shutil.which("debootstrap"):
                raise NoEngineError("no registry, and no root or debootstrap to make a base image")
            call("docker/base-image", *_find_mirror())
    for engine_flags, run_flags in (("", ""), ("--runtime runc", CONFINED)):
        command = ["podman", *engine_flags.split(), "run", "--rm", *run_flags.split(), flags["BASE_IMAGE"], "true"]
        if _works(*command):
            return "podman", flags | {"ENGINE_FLAGS": engine_flags, "RUN_FLAGS": run_flags}
    raise NoEngineError("podman runs no container here")


def _works(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _find_mirror() -> list[str]:
    """Where this machine has its own packages from."""
    for file in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        for line in file.read_text().splitlines() if file.is_file() else ():
            if line.startswith(("URIs:", "deb ")) and "debian" in line and "security" not in line:
                return [next(word for word in line.split() if "://" in word)]
    return []


def build(tag: str, source: Path, **environment: str) -> None:
    """Build the image from a copy of the repository."""
    engine, flags = find_engine()
    index = subprocess.run(["pip", "config", "get", "global.index-url"], check=False, capture_output=True, text=True)
    if not index.returncode:
        environment.setdefault("PIP_INDEX_URL", index.stdout.strip())
    call(str(source / "docker/build"), tag, **flags | {"ENGINE": engine} | environment)


def build_anew(tag: str, source: Path, **environment: str) -> None:
    """Build without layers of earlier builds, which have the times of another commit, and leave none behind."""
    engine, flags = find_engine()
    alone = "--no-cache" if engine == "docker" else "--no-cache --layers=false"
    build(tag, source, BUILD_FLAGS=f"{flags.get('BUILD_FLAGS', '')} {alone}", **environment)


@contextmanager
def build_for_tests(tag: str, source: Path, **environment: str) -> Iterator[str]:
    """An image for the length of a block; with EVERGREEN_KEEP_TEST_IMAGE the last run's, for who works on its tests."""
    if os.environ.get("EVERGREEN_KEEP_TEST_IMAGE"):
        if not _works(find_engine()[0], "image", "inspect", tag):
            build_anew(tag, source, **environment)
        yield tag
        return
    try:
        build_anew(tag, source, **environment)
        yield tag
    finally:
        remove_image(tag)


def remove_image(tag: str) -> None:
    """Remove an image, if it is there: each has nearly a gigabyte."""
    subprocess.run([find_engine()[0], "rmi", "--force", tag], check=False, capture_output=True)


def inspect_image(tag: str) -> Any:
    """What the engine knows of an image."""
    engine, _ = find_engine()
    return json.loads(call(engine, "image", "inspect", tag))[0]


def copy_repository(folder: Path) -> Path:
    """Copy the repository as `clone_checkout` does; skip the test where no container can be run."""
    try:
        find_engine()
    except NoEngineError as error:
        pytest.skip(f"the image is NOT tested: {error}")
    return clone_checkout(folder)


def clone_checkout(folder: Path) -> Path:
    """Clone the repository as it is now, without what git ignores."""
    call("git", "clone", "--quiet", str(REPOSITORY), str(folder))
    changed = call("git", "ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0")
    for name in filter(None, changed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).exists():
            shutil.copy2(REPOSITORY / name, folder / name)
    return folder


class RunningContainer(RunningService):
    """The image's server, with its state in a folder."""

    def __init__(self, image: str, state: Path, port: int, **environment: str) -> None:
        self.engine, self.flags = find_engine()
        self.image, self.state, self.port = image, state, port
        self.name = f"evergreen-test-{os.getpid()}-{port}"
        # On the host's network where the engine needs that: then on loopback only.
        host = {"EVERGREEN_HOST": "127.0.0.1", "EVERGREEN_ALLOW_ANONYMOUS": "true"} if self.is_confined else {}
        self.environment = (
            {"ENGINE": self.engine, "EVERGREEN_PORT": str(port), "STATE": str(state), "IMAGE": image}
            | host
            | environment
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    @property
    def is_confined(self) -> bool:
        return "--network host" in self.flags.get("RUN_FLAGS", "")

    def start(self, wait: bool = True) -> "RunningContainer":
        """Start it and wait until it is ready."""
        self.state.mkdir(exist_ok=True)
        self.state.chmod(0o777)  # for the image's user
        self.output = self.state.parent / f"{self.name}.log"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [REPOSITORY / "docker/run"],
                env=os.environ | self.flags | self.environment | {"RUN_FLAGS": self._run_flags(f"--name {self.name}")},
                stdout=output,
                stderr=output,
            )
        if wait:
            self.wait_until_ready(90)
        return self

    def _run_flags(self, more: str) -> str:
        return f"{self.flags.get('RUN_FLAGS', '')} {more}"

    def execute(self, *command: str) -> str:
        """Run a command in the container."""
        flags = self.flags.get("ENGINE_FLAGS", "").split()
        return call(self.engine, *flags, "exec", self.name, *command)

    def inspect(self) -> Any:
        """What the engine knows of the container."""
        return json.loads(call(self.engine, "inspect", self.name))[0]

    def run(self, *arguments: str, run_flags: str = "") -> str:
        """Run another command of the image, with the same state."""
        environment = self.flags | self.environment | {"RUN_FLAGS": self._run_flags(run_flags)}
        return call("docker/run", *arguments, **environment)

    def stop(self) -> int:
        """Stop it as an engine does."""
        self.process.send_signal(signal.SIGTERM)  # which the engine's client passes on
        return self.process.wait(60)

    def remove(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            subprocess.run([self.engine, "rm", "--force", self.name], check=False, capture_output=True)
            self.process.wait(60)


@contextmanager
def run_container(image: str, state: Path, port: int, **environment: str) -> Iterator[RunningContainer]:
    """A container for the length of a block."""
    container = RunningContainer(image, state, port, **environment)
    try:
        yield container.start()
    finally:
        container.remove()
