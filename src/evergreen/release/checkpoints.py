"""A pipeline on a runner that may be taken away: its checkpoints are kept elsewhere, and the next runner resumes."""

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from evergreen.logs import get_logger
from evergreen.sources import explain_unavailable, open_filesystem

log = get_logger(__name__)

SECONDS_BETWEEN = 30.0


class CheckpointMirror:
    """A copy of the checkpoints at an address; a file is there whole, and a checkpoint only once it is complete.

    Args:
        folder: where trainings leave their checkpoints.
        uri: s3://BUCKET/FOLDER, or a folder.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self.uri = uri if "://" in uri else f"file://{Path(uri).absolute()}"
        self._sent: dict[Path, tuple[int, int]] = {}
        """Time and size of each file as it was copied."""

    def restore(self) -> int:
        """Fetch what is not here, and return how many files that were.

        Raises:
            SourceError: when the address can't be read.
        """
        filesystem = self._open()
        try:
            remote = self._list(filesystem)
            files = {name: self.folder / name for name in remote}
            missing = [name for name, file in files.items() if not file.exists() or not _is_complete(file)]
            for name in missing:
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f"{target.name}.partial")
                filesystem.get_file(remote[name], str(partial))
                partial.replace(target)
        except Exception as error:
            raise explain_unavailable(self.uri, error) from error
        return len(missing)

    def save(self) -> int:
        """Copy what is new or changed, then remove what is gone here; return how many files were copied.

        Raises:
            SourceError: when the address can't be written.
        """
        filesystem = self._open()
        root = str(filesystem._strip_protocol(self.uri))
        local = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in self._list_complete()}
        changed = [file for file, state in local.items() if self._sent.get(file) != state]
        try:
            for file in changed:
                target = f"{root}/{file.relative_to(self.folder).as_posix()}"
                filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
                try:
                    filesystem.put_file(str(file), target)
                except FileNotFoundError:
                    continue  # the training has removed an old checkpoint meanwhile
                self._sent[file] = local[file]
            kept = {file.relative_to(self.folder).as_posix() for file in local}
            for name, path in self._list(filesystem).items():
                if name not in kept and not (self.folder / name).exists():
                    filesystem.rm_file(path)
        except Exception as error:
            raise explain_unavailable(self.uri, error) from error
        return len(changed)

    def _open(self) -> Any:
        try:
            return open_filesystem(self.uri)
        except Exception as error:
            raise explain_unavailable(self.uri, error) from error

    def _list(self, filesystem: Any) -> dict[str, str]:
        """Address of each file, by its path below the folder."""
        root = str(filesystem._strip_protocol(self.uri))
        paths = [path for path in filesystem.find(root) if not path.endswith("/")] if filesystem.exists(root) else []
        names = {path.removeprefix(root).lstrip("/"): path for path in paths}
        return {name: path for name, path in names.items() if name and ".." not in Path(name).parts}

    def _list_complete(self) -> list[Path]:
        """Files of complete checkpoints; what marks one as complete comes last."""
        files = [file for file in self.folder.rglob("*") if file.is_file() and file.suffix != ".partial"]
        complete = [file for file in files if _is_complete(file)]
        return sorted(complete, key=lambda file: (file.name == LAST_FILE, file))


LAST_FILE = "trainer_state.json"
"""That the trainer writes last: where it can't be read, a checkpoint is not resumed."""


def _is_complete(file: Path) -> bool:
    checkpoint = next((folder for folder in file.parents if folder.name.startswith("checkpoint-")), None)
    if checkpoint is None:
        return True
    try:
        json.loads((checkpoint / LAST_FILE).read_bytes())
    except (OSError, ValueError):  # missing, or cut off by a full disk or a loss of power
        return False
    return True


def run_with_checkpoints(command: Sequence[str], mirror: CheckpointMirror, seconds: float = SECONDS_BETWEEN) -> int:
    """Run a command beside which the checkpoints are copied every so often; return its exit code.

    A signal to end reaches the command, and what it left is copied.

    Raises:
        SourceError: when the address can't be read at the start; what can't be written later is a warning.
    """
    if count := mirror.restore():
        print(f"{count} files of checkpoints fetched from {mirror.uri}", flush=True)
    process = subprocess.Popen(command)

    def stop(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while True:
            try:
                code = process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                _try_to_save(mirror)
        _try_to_save(mirror)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code


def _try_to_save(mirror: CheckpointMirror) -> None:
    try:
        mirror.save()
    except Exception as error:  # the training is worth more than its copy
        log.warning("checkpoints not copied", problem=str(error), uri=mirror.uri)
