"""A split that is missing, cut off or damaged is named, with the stage that makes it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from easy_corpus import write

from evergreen.sources import SourceError
from evergreen.text.split_files import check_split, read_split


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def zero_the_start(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(bytes(len(content) // 2) + content[len(content) // 2 :])


@pytest.mark.parametrize("damage", [Path.unlink, cut, empty, zero_the_start])
def test_a_damaged_split_is_named(damage: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path, {"train": 500})
    assert len(read_split(tmp_path, "train")) == 500
    damage(tmp_path / "train.parquet")
    with pytest.raises(SourceError, match=r"train\.parquet: (missing|damaged).* Make it again: dvc repro preprocess\."):
        read_split(tmp_path, "train")


def test_a_cut_split_is_noticed_before_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"train": 500})
    assert check_split(tmp_path, "train") == tmp_path / "train.parquet"
    cut(tmp_path / "train.parquet")
    with pytest.raises(SourceError, match="damaged"):
        check_split(tmp_path, "train")
