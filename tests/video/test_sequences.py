"""Sequences: every frame belongs to one split, and what is synthesized is labeled so."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from footage import add_intruder, draw_scene, reduce_params, write_video

from evergreen.params import Params
from evergreen.video.clips import VideoError
from evergreen.video.sequences import count_sequences, plan_parts, read_normal_frames, read_sequences

SPLITS = ["train", "validation", "test"]


def read(params: Params, splits=SPLITS):
    parts = plan_parts(params.video, params.clips)
    return list(read_sequences(parts, params.video, params.clips, params.diffusion.context, splits))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds of the scene."""
    return write_video(tmp_path_factory.mktemp("scene") / "scene.mp4", draw_scene(120))


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    """Eight clips of 30 frames, four of them with an intruder in frames 10 to 19."""
    for number in range(8):
        images = draw_scene(30, 7 * number)
        write_video(tmp_path / f"clip{number}.mp4", add_intruder(images, 10, 20) if number % 2 else images)
    rows = [f"clip{number},10,19" for number in (1, 3, 5, 7)]
    (tmp_path / "labels.csv").write_text("\n".join(["clip,first_frame,last_frame", *rows]))
    return tmp_path


def test_an_unlabeled_video_is_divided_by_time(scene):
    params = reduce_params(source=str(scene))
    parts = plan_parts(params.video, params.clips)
    assert [(part.split, part.start, part.stop) for part in parts] == [
        ("normal", 0, 54), ("train", 54, 72), ("validation", 72, 96), ("test", 96, 120)
    ]  # fmt: skip
    frames = read_normal_frames(parts, params.video, params.clips, params.diffusion.context)
    assert frames.shape == (54, 32, 48, 3)


def test_normal_sequences_cover_their_part_once(scene):
    sequences = [s for s in read(reduce_params(source=str(scene))) if s.kind == "normal"]
    assert [(s.split, s.name) for s in sequences] == [
        ("train", "scene.mp4 54-62"),
        ("train", "scene.mp4 63-71"),
        ("validation", "scene.mp4 72-83"),
        ("validation", "scene.mp4 84-95"),
        ("test", "scene.mp4 96-107"),
        ("test", "scene.mp4 108-119"),
    ]
    assert not any(s.mask.any() for s in sequences)
    for before, after in itertools.pairwise(sequences):
        assert np.array_equal(after.lead, before.images[-4:])


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_as_many_are_synthesized_as_wanted(scene, count):
    params = reduce_params(source=str(scene), synthetic_sequences=count)
    sequences = read(params)
    made = [s for s in sequences if s.kind != "normal"]
    assert len(made) == 3 * count
    assert all(s.mask.any() and not s.mask.all() for s in made)
    assert {s.kind for s in made if s.split == "test"} == {"skip"}
    assert {s.kind for s in made if s.split != "test"} <= {"patch", "warp"}
    assert len({s.group for s in sequences}) == len(sequences)
    assert len(sequences) == count_sequences(plan_parts(params.video, params.clips), params.video, SPLITS)


def test_an_untouched_frame_stays_as_it_was(scene):
    sequences = read(reduce_params(source=str(scene)))
    normal = {s.name: s for s in sequences if s.kind == "normal"}
    for made in (s for s in sequences if s.kind != "normal"):
        original = normal[" ".join(made.name.split()[:2])]
        assert np.array_equal(made.images[~made.mask], original.images[~made.mask])
        assert (made.images[made.mask] != original.images[made.mask]).any((1, 2, 3)).all()


def test_the_same_seed_gives_the_same_sequences(scene):
    first, second = (read(reduce_params(source=str(scene))) for _ in range(2))
    assert all(np.array_equal(a.images, b.images) for a, b in zip(first, second, strict=True))


def test_a_video_that_is_too_short_is_refused(tmp_path):
    write_video(tmp_path / "short.mp4", draw_scene(12))
    with pytest.raises(VideoError, match=r"short\.mp4: 12 frames at this rate leave 2 for train, fewer than 4"):
        plan_parts(reduce_params(source=str(tmp_path / "short.mp4")).video, reduce_params().clips)


def test_labeled_clips_are_divided_whole(labeled):
    params = reduce_params(source=str(labeled), labels=str(labeled / "labels.csv"))
    parts = plan_parts(params.video, params.clips)
    splits = {part.clip.path.name: part.split for part in parts}
    assert len(splits) == len(parts) == 8
    for split in ("train", "validation", "test"):
        kinds = {int(name[4]) % 2 for name, value in splits.items() if value == split}
        assert kinds == {0, 1}, split  # each with and without anomalies
    sequences = read(params, ["test"])
    assert {s.kind for s in sequences} == {"normal", "labeled"}  # nothing is synthesized where labels are
    assert count_sequences(parts, params.video, ["test"]) == len(sequences)
    [anomalous] = [s for s in sequences if s.kind == "labeled"]
    assert anomalous.mask.tolist() == [10 <= number < 20 for number in range(30)]
    assert all(s.group == s.name.split()[0] for s in sequences)


def test_labeled_training_clips_are_joined_by_synthesized_anomalies(labeled):
    params = reduce_params(source=str(labeled), labels=str(labeled / "labels.csv"))
    kinds = {s.kind for s in read(params, ["train"])}
    assert {"normal", "labeled"} < kinds
    assert kinds & {"patch", "warp"}


def test_the_diffusion_model_sees_no_labeled_frame(labeled):
    params = reduce_params(source=str(labeled), labels=str(labeled / "labels.csv"), normal_fraction=0.5)
    parts = plan_parts(params.video, params.clips)
    frames = read_normal_frames(parts, params.video, params.clips, [])
    train = [part.clip for part in parts if part.split == "train"]
    with_intruder = sum(bool(clip.ranges) for clip in train)
    assert len(frames) == 10 * with_intruder + 15 * (len(train) - with_intruder)


def test_many_normal_frames_are_thinned(scene):
    params = reduce_params(source=str(scene), max_normal_frames=20)
    parts = plan_parts(params.video, params.clips)
    assert len(read_normal_frames(parts, params.video, params.clips, [])) == 18  # every third of 54


def test_folders_label_whole_clips(tmp_path):
    for number in range(6):
        folder = tmp_path / str(number % 2)
        folder.mkdir(exist_ok=True)
        write_video(folder / f"clip{number}.mp4", draw_scene(10, 5 * number))
    sequences = read(reduce_params(source=str(tmp_path)), ["test"])
    assert sorted(s.mask.all() for s in sequences) == [False, True]


def test_two_labeled_clips_are_too_few(tmp_path):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        write_video(tmp_path / str(number) / "clip.mp4", draw_scene(10))
    with pytest.raises(VideoError, match=r"2 labeled clips leave none for \['train', 'validation'\]"):
        read(reduce_params(source=str(tmp_path)))
