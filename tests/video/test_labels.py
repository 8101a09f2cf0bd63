"""Labels: from ranges, folders or none; what does not fit is refused with its line."""

from pathlib import Path

import numpy as np
import pytest

from evergreen.video.clips import VideoError
from evergreen.video.labels import find_clips

PED2 = Path(__file__).parents[3] / "shared/data/ped2"


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write(folder: Path, *rows: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join(["clip,first_frame,last_frame", *rows]) + "\n")
    return path


def test_ranges_include_both_ends(tmp_path):
    touch(tmp_path, "b.mp4", "a.avi", ".hidden.mp4", "notes.txt")
    clips = find_clips(tmp_path, write(tmp_path, "b,2,3", "b,6,6"))
    assert [clip.path.name for clip in clips] == ["a.avi", "b.mp4"]
    assert not clips[0].mask(np.arange(8)).any()
    assert np.flatnonzero(clips[1].mask(np.arange(8))).tolist() == [2, 3, 6]
    # Sampled frames keep their own numbers.
    assert clips[1].mask(np.array([0, 3, 6, 9])).tolist() == [False, True, True, False]


def test_two_folders_are_labels(tmp_path):
    clips = find_clips(touch(tmp_path, "0/a.mp4", "1/b.mp4", "1/more/c.mkv"))
    assert [(clip.path.name, bool(clip.mask(np.arange(5)).all())) for clip in clips] == [
        ("a.mp4", False), ("b.mp4", True), ("c.mkv", True)
    ]  # fmt: skip


@pytest.mark.parametrize("names", [("a.mp4",), ("0/a.mp4",), ("0/a.mp4", "1/b.mp4", "c.mp4")])
def test_without_labels_nothing_is_made_up(tmp_path, names):
    clips = find_clips(touch(tmp_path, *names))
    assert all(clip.ranges is None for clip in clips)
    with pytest.raises(VideoError, match=r"mp4: has no labels"):
        clips[0].mask(np.arange(3))


def test_one_file_is_a_clip(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    assert [clip.path.name for clip in find_clips(tmp_path / "a.mp4")] == ["a.mp4"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c,1,2", r"line 2: no clip 'c' among \['a'\]"),
        ("a,5,2", "line 2: frames 5 to 2"),
        ("a,-1,2", "line 2: frames -1 to 2"),
        ("a,one,2", "line 2: .*'one'"),
        ("a,1", "line 2: "),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, row, message):
    touch(tmp_path, "a.mp4")
    with pytest.raises(VideoError, match=message):
        find_clips(tmp_path, write(tmp_path, row))


def test_labels_that_cannot_be_read_are_refused(tmp_path):
    touch(tmp_path, "a.mp4")
    with pytest.raises(VideoError, match=r"none\.csv: can't be read"):
        find_clips(tmp_path, tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("name,from,to\n")
    with pytest.raises(VideoError, match=r"other\.csv: no column \['clip', 'first_frame', 'last_frame'\]"):
        find_clips(tmp_path, tmp_path / "other.csv")
    (tmp_path / "utf16.csv").write_bytes("clip,first_frame,last_frame\n".encode("utf-16"))
    with pytest.raises(VideoError, match=r"utf16\.csv: can't be read"):
        find_clips(tmp_path, tmp_path / "utf16.csv")


def test_a_folder_without_a_video_is_named(tmp_path):
    with pytest.raises(VideoError, match="no video in it"):
        find_clips(tmp_path)


@pytest.mark.skipif(not PED2.exists(), reason=f"{PED2} is absent")
def test_real_labels_fit_their_clips():
    clips = {clip.path.stem: clip for clip in find_clips(PED2, PED2 / "labels.csv")}
    assert clips["test_01"].mask(np.arange(180)).sum() == 120
    assert not clips["normal_01"].mask(np.arange(100)).any()
