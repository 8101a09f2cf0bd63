"""Context: a frame beside its predecessors, which end where a shot begins."""

import numpy as np
import pytest

from evergreen.video.context import stack_context, to_model


def ramp(*levels: int) -> list[np.ndarray]:
    return [np.full((2, 3, 1), level, np.uint8) for level in levels]


def numbers(stacked) -> list[list[int]]:
    return [frame[0, 0].tolist() for frame in stacked]


def test_predecessors_stand_before_the_frame():
    stacked = numbers(stack_context(ramp(0, 1, 2, 3, 4), [-4, -2], None))
    assert stacked == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 3], [0, 2, 4]]


def test_without_context_the_frame_is_alone():
    assert numbers(stack_context(ramp(5, 6), [], None)) == [[5], [6]]


def test_a_cut_begins_anew():
    stacked = numbers(stack_context(ramp(0, 1, 2, 100, 101, 102), [-2, -1], 30.0))
    assert stacked == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [100, 100, 100], [100, 100, 101], [100, 101, 102]]


def test_a_fixed_camera_has_no_cuts():
    assert numbers(stack_context(ramp(0, 100), [-1], None)) == [[0, 0], [0, 100]]


def test_frames_come_as_they_are_read():
    stacked = stack_context(iter(ramp(0, 1)), [-1], None)
    assert next(stacked).shape == (2, 3, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_scaled_with_channels_first(channels):
    images = np.zeros((4, 2, 3, channels), np.uint8)
    images[1] = 255
    scaled = to_model(images)
    assert scaled.shape == (4, channels, 2, 3)
    assert scaled[0].min() == -1
    assert scaled[1].max() == 1
