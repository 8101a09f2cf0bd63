"""Made anomalies: the label says which frames were changed, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.video.synthesis import KINDS, synthesize


def moving(frames: int, height: int = 36, width: int = 48, channels: int = 1) -> np.ndarray:
    """A textured picture in which a bright square moves on."""
    rng = np.random.default_rng(0)
    images = np.repeat(rng.integers(60, 120, (1, height, width, channels)), frames, axis=0).astype(np.uint8)
    for number, image in enumerate(images):
        left = number % (width - 8)
        image[10:18, left : left + 8] = 230
    return images


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(frames=st.integers(4, 60), channels=st.sampled_from([1, 3]), seed=st.integers(0, 10_000))
def test_only_labeled_frames_are_changed(kind, frames, channels, seed):
    images = moving(frames, channels=channels)
    changed, mask = synthesize(images, kind, seed)
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    assert mask.any() or frames < 8  # a part of a frame or two has no order to lose
    assert np.array_equal(changed[~mask], images[~mask])
    again, same_mask = synthesize(images, kind, seed)
    assert np.array_equal(changed, again)
    assert np.array_equal(mask, same_mask)


@pytest.mark.parametrize("kind", KINDS)
def test_an_anomaly_lasts(kind):
    for seed in range(20):
        _, mask = synthesize(moving(60), kind, seed)
        assert 10 <= mask.sum() <= 30


@pytest.mark.parametrize("kind", ["skip", "shuffle", "freeze"])
def test_a_still_scene_has_no_anomaly_of_motion(kind):
    images = moving(1).repeat(20, axis=0)
    changed, mask = synthesize(images, kind, 3)
    assert not mask.any()
    assert np.array_equal(changed, images)


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_a_few_frames_do_not_fail(kind, frames):
    changed, mask = synthesize(moving(frames), kind, 3)
    assert len(changed) == len(mask) == frames
