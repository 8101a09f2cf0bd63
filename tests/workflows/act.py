"""Runs a workflow of this repository with act, on this machine itself: no container, no network, no foreign action.

Every action of another repository is replaced by a stand-in that records what it was given. `./.github/actions/setup` is
the real one; it is quick where `.venv` is set up.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yml"))
_RUNNERS = ("ubuntu-latest",)


@dataclass(frozen=True)
class ActResult:
    """What act did.

    Attributes:
        returncode: 0 when every job succeeded.
        output: what it printed.
        calls: the actions that ran, in their order: (name, inputs), as ("actions/cache/restore", {"path": …}).
    """

    returncode: int
    output: str
    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def explain(self) -> str:
        """What the steps printed, and which failed."""
        lines = [line for line in self.output.splitlines() if "  | " in line or "❌" in line or "Error:" in line]
        return "\n".join(lines[-80:])


def read_yaml(path: Path) -> Any:
    """A workflow or an action; `on` stays a word, as in YAML 1.2."""
    return YAML(typ="safe").load(path)


def read_steps(path: Path) -> Iterator[dict[str, Any]]:
    """Every step of a workflow or of an action."""
    content = read_yaml(path)
    for job in content.get("jobs", {"": content.get("runs")}).values():
        yield from job["steps"]


def run_act(
    repository: Path,
    event: str,
    workflow: Path,
    job: str | None = None,
    env: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    payload: Mapping[str, Any] | None = None,
    runners: tuple[str, ...] = _RUNNERS,
    timeout: float = 600,
    kill_at: Callable[[str], bool] = lambda _: False,
) -> ActResult:
    """Run a workflow, or one job of it and what that needs, in a repository's own folder, for real.

    act's dry run is no help: without containers it runs the steps all the same, in another folder.

    Args:
        repository: the working tree, in which the steps run; whatever they change stays.
        event: as "push" or "workflow_dispatch".
        workflow: its file.
        job: its id; None runs them all.
        env: variables of every step, as addresses of servers that stand in for others.
        secrets: as `secrets.…`; GITHUB_TOKEN as well.
        inputs: of a workflow_dispatch.
        variables: as `vars.…`.
        payload: more of the event, as `github.event.…`.
        runners: labels that are this machine.
        timeout: seconds, after which act and all that it started are killed.
        kill_at: they are also killed at the first line for which this is true, as where a machine is taken away.
    """
    with TemporaryDirectory() as folder:
        home = Path(folder)
        record = home / "calls.jsonl"
        event_file = home / "event.json"
        event_file.write_text(json.dumps({**(payload or {}), **({"inputs": dict(inputs)} if inputs else {})}))
        command = ["act", event, "--workflows", str(workflow), "--eventpath", str(event_file), "--actor", "ann"]
        command += [
            "--no-skip-checkout",
            "--no-cache-server",
            "--action-offline-mode",
            "--pull=false",
            "--concurrent-jobs=1",
        ]
        command += [f"--job={job}"] if job else []
        command += [f"--platform={runner}=-self-hosted" for runner in runners]
        for option, values in (("env", env), ("secret", secrets), ("input", inputs), ("var", variables)):
            command += [f"--{option}={name}={value}" for name, value in (values or {}).items()]
        stand_ins = _write_stand_ins([*WORKFLOWS, *ACTIONS, workflow], home / "actions", record, repository)
        for name, replacement in stand_ins.items():
            command.append(f"--local-repository={name}={replacement}")
        process = subprocess.Popen(
            command,
            cwd=repository,
            # Nothing of this user's act: neither settings nor what an earlier run kept.
            env=os.environ | {"XDG_CACHE_HOME": str(home / "cache"), "XDG_CONFIG_HOME": str(home / "config")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        timer = Timer(timeout, _kill_tree, [process.pid])
        timer.start()
        output = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                output.append(line)
                if kill_at(line):
                    _kill_tree(process.pid)
                    break
            process.wait()
        finally:
            timer.cancel()
            _kill_tree(process.pid)
        lines = record.read_text().splitlines() if record.exists() else []
        return ActResult(process.returncode, "".join(output), [_read_call(line) for line in lines])


def _kill_tree(pid: int) -> None:
    """Kill a process and all that it started, where it still runs; each is halted first, so that it starts nothing more."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.suspend()
        for child in process.children():
            _kill_tree(child.pid)
        process.kill()


def _read_call(line: str) -> tuple[str, dict[str, str]]:
    name, inputs = json.loads(line)
    return name, {key: value for key, value in inputs.items() if value}


def _write_stand_ins(files: list[Path], folder: Path, record: Path, repository: Path) -> dict[str, Path]:
    """Write an action for each that is used, with the inputs that it is given; return their folders by OWNER/NAME@REF."""
    given: dict[str, set[str]] = {}
    for file in files:
        for step in read_steps(file):
            if re.match(r"[\w-]+/", step.get("uses", "")):
                given.setdefault(step["uses"], set()).update(step.get("with", {}))
    replacements = {}
    for uses, inputs in given.items():
        action, _, ref = uses.partition("@")
        owner, name, *path = action.split("/")
        replacement = folder / f"{owner}+{name}@{ref}"
        target = replacement.joinpath(*path, "action.yml")
        target.parent.mkdir(parents=True, exist_ok=True)
        call = f'["{action}", {{%s}}]' % ", ".join(
            f'"{key}": ${{{{ toJSON(inputs.{key}) }}}}' for key in sorted(inputs)
        )
        script = f'echo "$CALL" >> "{record}"'
        if action == "actions/checkout":  # act's own folder for the job becomes the repository's
            script += f'; [ -L "$PWD" ] || {{ rmdir "$PWD" && ln -s "{repository.resolve()}" "$PWD"; }}'
        step = {"run": script, "shell": "bash", "env": {"CALL": call}}
        declared = {key: {"description": key} for key in inputs}
        stand_in = {"name": action, "inputs": declared, "runs": {"using": "composite", "steps": [step]}}
        target.write_text(json.dumps(stand_in))
        replacements[f"{owner}/{name}@{ref}"] = replacement
    return replacements
