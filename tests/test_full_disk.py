"""A full disk is one line with the path and what to do, whatever library meets it."""

import errno
import io
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import av
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from full_disk import mount_small_disk
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from evergreen import stage
from evergreen.files import write_whole
from evergreen.full_disk import explain_full_disk
from evergreen.metrics import Metrics
from evergreen.sources import SourceError

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mount_small_disk(tmp_path / "disk", "64k") as folder:
        yield folder


class Numbers(Metrics):
    numbers: list[int]


def write_features(file: Path) -> None:
    with h5py.File(file, "w") as features:
        features["errors"] = np.arange(100_000.0)


def save_tokenizer(file: Path) -> None:
    Tokenizer(WordLevel({f"word{i}": i for i in range(50_000)}, unk_token="word0")).save(str(file))


def save_to_stream(file: Path) -> None:
    with file.open("wb") as stream:
        torch.save(torch.zeros(100_000), stream)


def write_video(file: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (30, 240, 320, 3), np.uint8)
    with av.open(str(file), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))


def insert(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("create table texts (text)")
        database.execute("insert into texts values (?)", ("x" * 500_000,))


def download(file: Path) -> None:
    try:
        file.write_bytes(bytes(500_000))
    except OSError as error:
        raise SourceError("s3://here: unavailable. Check the network.") from error


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda file: file.write_bytes(bytes(500_000)),
    "whole file": lambda file: write_whole(file, bytes(500_000)),
    "metrics": Numbers(numbers=list(range(100_000))).save,
    "csv": lambda file: pd.DataFrame({"a": np.arange(100_000)}).to_csv(file),
    "parquet": lambda file: pd.DataFrame({"a": np.random.default_rng(0).random(100_000)}).to_parquet(file),
    "copy": lambda file: shutil.copyfile(torch.__file__, file),
    "torch": lambda file: torch.save(torch.zeros(100_000), file),
    "torch, to a stream": save_to_stream,
    "safetensors": lambda file: save_file({"a": torch.zeros(100_000)}, file),
    "tokenizer": save_tokenizer,
    "error maps": write_features,
    "video": write_video,
    "sqlite": insert,
    "behind an error of ours": download,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_full_disk_is_one_line_with_its_path(
    write: Callable[[Path], object], small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        stage.run(lambda: write(small_disk / "file"))
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"error: {small_disk}")
    assert "Make room there" in message


def test_whole_file_keeps_the_one_before(small_disk: Path) -> None:
    file = small_disk / "state.json"
    write_whole(file, b"before")
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, bytes(500_000))
    assert file.read_bytes() == b"before"
    assert list(small_disk.iterdir()) == [file]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "Permission denied", "file"), ValueError("no space for a header"), SourceError("a.")],
)
def test_another_error_is_no_full_disk(error: Exception) -> None:
    assert explain_full_disk(error) is None


def test_device_that_is_always_full() -> None:
    with pytest.raises(OSError, match="No space left") as caught, io.FileIO("/dev/full", "w") as stream:
        stream.write(b"x")
    assert explain_full_disk(caught.value) is not None


@pytest.mark.parametrize("size", [10, 500_000])
def test_output_that_finds_no_room_is_one_line(size: int, small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(bytes(60_000))
    with (small_disk / "output").open("wb") as output:
        with suppress(OSError):
            (small_disk / "rest").write_bytes(bytes(100_000))
        program = f"from evergreen import stage; stage.run(lambda: print('x' * {size}))"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: standard output: can't be written, 0 bytes are free")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_a_command_that_only_prints_reports_it_as_well(option: str) -> None:
    program = f"from evergreen.cli import app; app(['{option}'])"
    with Path("/dev/full").open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
