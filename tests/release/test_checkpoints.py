"""A runner that is taken away costs the steps since its last checkpoint, and no more."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import Bucket, run_s3_server
from footage import reduce_params

from evergreen.release.checkpoints import CheckpointMirror, run_with_checkpoints
from evergreen.sources import SourceError

TRAIN = """
import sys
from pathlib import Path
from evergreen.params import Params
from evergreen.video.extraction import make_features
from evergreen.video.sequences import plan_parts

params, folder = Params.model_validate_json(sys.argv[1]), Path(sys.argv[2])
parts = plan_parts(params.video, params.clips)
maps, weights, history = folder / "features.h5", folder / "diffusion", folder / "diffusion.csv"
make_features(params, parts, maps, weights, history, folder / "checkpoints")
"""
RUNNER = """
import sys
from pathlib import Path
from evergreen.release.checkpoints import CheckpointMirror, run_with_checkpoints

uri, folder, *command = sys.argv[1:]
sys.exit(run_with_checkpoints(command, CheckpointMirror(Path(folder, "checkpoints"), uri), seconds=0.2))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with run_s3_server() as address:
        yield address


def start_runner(uri: str, folder: Path, *command: str) -> "subprocess.Popen[bytes]":
    """A machine with a state of its own, all of which one signal can end."""
    folder.mkdir()
    runner = [sys.executable, "-c", RUNNER, uri, str(folder), *command]
    return subprocess.Popen(runner, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_training_resumes_on_another_machine(
    scene: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(server, tmp_path, monkeypatch)
    params = reduce_params(source=str(scene))
    params = params.model_copy(
        update={"diffusion": params.diffusion.model_copy(update={"steps": 60, "checkpoint_steps": 10})}
    )

    def command(folder: Path) -> list[str]:
        return [sys.executable, "-c", TRAIN, params.model_dump_json(), str(folder)]

    uri = f"{bucket.uri}/checkpoints"
    first = start_runner(uri, tmp_path / "first", *command(tmp_path / "first"))
    end = time.monotonic() + 120
    while not bucket.client.list_objects_v2(Bucket=bucket.name).get("KeyCount"):
        assert first.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(30)
    assert not (tmp_path / "first/diffusion").exists()
    second = start_runner(uri, tmp_path / "second", *command(tmp_path / "second"))
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0
    assert b"1 files of checkpoints fetched" in output
    whole = tmp_path / "whole"
    whole.mkdir()
    subprocess.run(command(whole), check=True, capture_output=True, timeout=120)
    # Every row of the history: the resumed steps are the ones that a training without a break takes.
    assert (tmp_path / "second/diffusion.csv").read_bytes() == (whole / "diffusion.csv").read_bytes()
    assert "KeyCount" in (left := bucket.client.list_objects_v2(Bucket=bucket.name))
    assert left["KeyCount"] == 0  # what ended needs no checkpoint


def write(folder: Path, name: str, content: str = "x") -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def test_only_complete_checkpoints_are_copied_and_old_ones_go(tmp_path: Path) -> None:
    folder, copy = tmp_path / "checkpoints", tmp_path / "copy"
    mirror = CheckpointMirror(folder, str(copy))
    write(folder, "run/checkpoint-10/model.safetensors")
    write(folder, "diffusion/state.partial")
    assert mirror.save() == 0
    write(folder, "run/checkpoint-10/trainer_state.json", "")  # as a full disk leaves it
    assert mirror.save() == 0
    write(folder, "run/checkpoint-10/trainer_state.json", "{}")
    write(folder, "diffusion/state.pt")
    assert mirror.save() == 3
    assert mirror.save() == 0
    write(folder, "diffusion/state.pt", "newer")
    assert mirror.save() == 1
    for file in (folder / "run/checkpoint-10").iterdir():
        file.unlink()
    mirror.save()
    assert [file.name for file in copy.rglob("*") if file.is_file()] == ["state.pt"]
    other = tmp_path / "other"
    assert CheckpointMirror(other, str(copy)).restore() == 1
    assert (other / "diffusion/state.pt").read_text(encoding="utf-8") == "newer"
    write(other, "diffusion/state.pt", "of this machine")
    assert CheckpointMirror(other, str(copy)).restore() == 0  # what is here is newer


def test_checkpoint_that_was_cut_off_here_is_fetched_whole(tmp_path: Path) -> None:
    folder, copy = tmp_path / "checkpoints", tmp_path / "copy"
    write(folder, "run/checkpoint-10/model.safetensors", "whole")
    write(folder, "run/checkpoint-10/trainer_state.json", "{}")
    CheckpointMirror(folder, str(copy)).save()
    write(folder, "run/checkpoint-10/model.safetensors", "who")
    write(folder, "run/checkpoint-10/trainer_state.json", "")
    assert CheckpointMirror(folder, str(copy)).restore() == 2
    assert (folder / "run/checkpoint-10/model.safetensors").read_text(encoding="utf-8") == "whole"
    assert CheckpointMirror(folder, str(copy)).restore() == 0


def test_address_that_does_not_work_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    mirror = CheckpointMirror(tmp_path / "checkpoints", "s3://nowhere/checkpoints")
    with pytest.raises(SourceError, match="AWS_"):
        run_with_checkpoints(["true"], mirror)


def test_exit_code_and_signals_are_the_commands(tmp_path: Path) -> None:
    mirror = CheckpointMirror(tmp_path / "checkpoints", str(tmp_path / "copy"))
    assert run_with_checkpoints(["sh", "-c", "exit 7"], mirror) == 7
    program = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(3)); print('ready', flush=True); time.sleep(60)"
    runner = start_runner(str(tmp_path / "copy"), tmp_path / "runner", sys.executable, "-c", program)
    assert runner.stdout is not None
    assert runner.stdout.readline() == b"ready\n"
    write(tmp_path / "runner/checkpoints", "diffusion/state.pt")
    runner.terminate()
    assert runner.wait(30) == 3
    assert (tmp_path / "copy/diffusion/state.pt").exists()
