"""Context: a frame beside its predecessors, which end where a shot begins."""

import numpy as np
import pytest

from evergreen.video.context import stack_context, to_model


def ramp(*levels: int) -> list[np.ndarray]:
    return [np.full((2, 3, 1), level, np.uint8) for level in levels]


def numbers(stacked) -> list[list[int]]:
    return [frame[0, 0].tolist() for frame in stacked]


def test_predecessors_stand_before_the_frame_and_successors_before_the_first_ones():
    stacked = numbers(stack_context(ramp(*range(10)), [-4, -2], None))
    assert stacked[:4] == [[4, 2, 0], [5, 3, 1], [6, 4, 2], [7, 5, 3]]
    assert stacked[4:] == [[number - 4, number - 2, number] for number in range(4, 10)]


def test_a_stream_does_not_wait():
    def frames():
        yield from ramp(0, 1, 2, 3, 4)
        raise AssertionError("read ahead")

    stacked = stack_context(frames(), [-4, -2], None, stream=True)
    assert numbers(next(stacked) for _ in range(5)) == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 3], [0, 2, 4]]


@pytest.mark.parametrize("stream", [False, True])
def test_without_context_the_frame_is_alone(stream):
    assert numbers(stack_context(ramp(5, 6), [], None, stream)) == [[5], [6]]


def test_a_cut_begins_anew():
    images = ramp(0, 1, 2, 100, 101, 102)
    stacked = numbers(stack_context(images, [-2, -1], 30.0, stream=True))
    assert stacked == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [100, 100, 100], [100, 100, 101], [100, 101, 102]]
    stacked = numbers(stack_context(images, [-2, -1], 30.0))
    assert stacked == [[2, 1, 0], [2, 2, 1], [0, 1, 2], [102, 101, 100], [102, 102, 101], [100, 101, 102]]


@pytest.mark.parametrize("length", range(12))
@pytest.mark.parametrize("cut", [None, 3, 8, 9])
def test_each_frame_comes_once_in_its_order(length, cut):
    levels = [number + 100 * (cut is not None and number >= cut) for number in range(length)]
    stacked = numbers(stack_context(ramp(*levels), [-4, -2], 30.0))
    assert [frame[-1] for frame in stacked] == levels
    assert all(max(frame) - min(frame) < 30 for frame in stacked)  # nothing of another shot


def test_a_fixed_camera_has_no_cuts():
    assert numbers(stack_context(ramp(0, 100), [-1], None)) == [[100, 0], [0, 100]]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_scaled_with_channels_first(channels):
    images = np.zeros((4, 2, 3, channels), np.uint8)
    images[1] = 255
    scaled = to_model(images)
    assert scaled.shape == (4, channels, 2, 3)
    assert scaled[0].min() == -1
    assert scaled[1].max() == 1
