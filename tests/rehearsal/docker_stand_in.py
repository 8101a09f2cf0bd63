#!/usr/bin/env python3
"""What a rehearsal calls docker: the commands that release.yml, docker/deploy and docker/update use, on this machine alone.

Images are built and run by REHEARSAL_ENGINE where one works here. Without one an image is a copy of the bundles, and a
container is `evergreen serve` of the checkout with them. There is no registry: a push keeps the image where it is.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

FOLDER = Path(os.environ["REHEARSAL_FOLDER"])
ENGINE = os.environ.get("REHEARSAL_ENGINE", "")


def load(name: str) -> dict:
    try:
        return json.loads((FOLDER / name).read_text())
    except FileNotFoundError:
        return {}


def save(name: str, content: dict) -> None:
    partial = FOLDER / f"{name}.{os.getpid()}"
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(FOLDER / name)


def find_option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1] if name in arguments else ""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def find_digest(image: str) -> str:
    """The digest of a tag, or of NAME@sha256:DIGEST."""
    if "@sha256:" in image:
        return image.rpartition(":")[2]
    if not ENGINE:
        return load("tags.json")[image]
    command = [ENGINE, "image", "inspect", "--format", "{{.Digest}}", image]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().removeprefix("sha256:")


def inspect(arguments: list[str]) -> None:
    if "RepoDigests" in find_option(arguments, "--format"):
        name, digest = arguments[-1].rpartition(":")[0], find_digest(arguments[-1])
        save("digests.json", load("digests.json") | {digest: arguments[-1]})
        print(f"{name}@sha256:{digest}")
    for container in arguments[2:] if "Config.Image" in find_option(arguments, "--format") else ():
        print(load("containers.json")[container]["image"])


def run(arguments: list[str]) -> None:
    """The server of an image's bundles, or its command batch, in this process's place."""
    words = iter(arguments)
    environment, volumes, name = {}, {}, ""
    for word in words:
        if word == "--env":
            variable = next(words)
            environment[variable] = os.environ[variable]
        elif word == "--volume":
            source, target = next(words).split(":")[:2]
            volumes[target] = source
        elif word == "--name":
            name = next(words)
        elif word in (
            "--tmpfs",
            "--cap-drop",
            "--security-opt",
            "--stop-timeout",
            "--publish",
            "--network",
            "--ulimit",
        ):
            next(words)
        elif not word.startswith("--"):
            break
    image, command = word, list(words)
    save("running.json", load("running.json") | {name: os.getpid()})
    bundles = FOLDER / "images" / find_digest(image)
    state = volumes.get("/state", name)
    state = state if "/" in state else str(FOLDER / "volumes" / state)
    text = volumes.get("/models/text", str(bundles / "text"))
    environment |= {"EVERGREEN_STATE_DIR": state, "EVERGREEN_JOB_PRIORITY": "normal"}
    os.environ.update(environment)
    command = [word.replace("/data/", f"{volumes.get('/data', '')}/") for word in command]
    if not command:
        command = ["serve", "--bundle", text, "--video", str(bundles / "video")]
    elif command[0] == "batch":
        command += ["--bundle", text]
    os.execvp("evergreen", ["evergreen", *command])  # noqa: S606 - fixed arguments


def compose(arguments: list[str]) -> None:
    containers = {name: row for name, row in load("containers.json").items() if is_alive(row["pid"])}
    if "ps" in arguments:
        print(*containers, sep="\n")
    elif "up" in arguments:
        wanted = int(find_option(arguments, "--scale").partition("=")[2] or 1)
        for _ in range(len(containers), wanted):
            containers |= start(os.environ["EVERGREEN_IMAGE"], {row["port"] for row in containers.values()})
    save("containers.json", containers)


def start(image: str, taken: set[int]) -> dict:
    """Start a server of an image beside those that run, as docker/update does, which is in docker/."""
    ports = json.loads(os.environ["REHEARSAL_PORTS"])
    port = next(port for port in ports if port not in taken)
    name = f"evergreen-rehearsal-{port}-{int(time.monotonic() * 1000)}"
    tag = load("digests.json").get(find_digest(image), image) if ENGINE else image
    flags = f"{os.environ.get('RUN_FLAGS', '')} --name {name}"
    if (FOLDER / "mount-text").exists():  # what a rehearsal of a failed release puts over the image's model
        flags += f" --volume {(FOLDER / 'mount-text').read_text()}:/models/text:ro"
    environment = os.environ | {
        "IMAGE": tag,
        "STATE": str(FOLDER / "state"),
        "RUN_FLAGS": flags,
        "EVERGREEN_PORT": str(port),
        "EVERGREEN_HOST": "127.0.0.1",
        "EVERGREEN_ALLOW_ANONYMOUS": "true",
        "EVERGREEN_DRAIN_SECONDS": "1",
    }
    (FOLDER / "state").mkdir(exist_ok=True)
    (FOLDER / "state").chmod(0o777)  # for the image's user
    with (FOLDER / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            ["./run"], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    return {name: {"pid": process.pid, "port": port, "image": image}}


def ask_ready(name: str) -> None:
    port = load("containers.json")[name]["port"]
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5)
    except OSError:
        sys.exit(1)


def stop(arguments: list[str]) -> None:
    """Stop containers and wait until they have ended."""
    pids = {name: row["pid"] for name, row in load("containers.json").items()} | load("running.json")
    for name in arguments:
        if name not in pids or not is_alive(pids[name]):
            continue
        os.kill(pids[name], signal.SIGTERM)
        for _ in range(450):
            if not is_alive(pids[name]):
                break
            time.sleep(0.1)


def build(arguments: list[str]) -> None:
    """Build by the real engine, or keep the bundles under the name of their content."""
    if ENGINE:
        os.execv(ENGINE, [ENGINE, "buildx", *arguments])  # noqa: S606 - as the scripts of docker/ call it
    models = Path("models")
    files = sorted(path for path in (models / "text", models / "video") for path in path.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    for path in files:
        copy = FOLDER / "images" / digest / path.relative_to(models)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    save("tags.json", load("tags.json") | {find_option(arguments, "--tag"): digest})


def copy(arguments: list[str]) -> None:
    """A list of what is inside: an image that is no container has an empty one."""
    Path(arguments[1], Path(arguments[0]).name).write_text("{}")


COMMANDS = {
    "info": lambda _: sys.exit(1 if ENGINE else 0),  # what asks for a docker that works then finds the real engine
    "login": lambda _: sys.stdin.read(),
    "push": lambda _: None,
    "volume": lambda _: None,
    "create": lambda _: print("nothing"),
    "cp": copy,
    "buildx": build,
    "inspect": inspect,
    "run": run,
    "compose": compose,
    "exec": lambda arguments: ask_ready(arguments[0]),
    "logs": lambda arguments: print((FOLDER / f"{arguments[-1]}.log").read_text()[-4000:]),
    "stop": stop,
    "rm": stop,
}

if __name__ == "__main__":
    with (FOLDER / "docker.log").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    COMMANDS[sys.argv[1]](sys.argv[2:])
