"""The detector: a trained bundle on real files, from Python and from the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from footage import add_intruder, draw_scene, reduce_params, write_video
from matplotlib import image as matplotlib_image
from typer.testing import CliRunner

from evergreen.bundle import BundleError
from evergreen.cli import app
from evergreen.video.bundle import Bundle
from evergreen.video.clips import Frame, VideoError
from evergreen.video.detection import Detection, detect
from evergreen.video.detector import Detector, judge_stream, judge_windows
from evergreen.video.overlay import draw_heat

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def detector(built: Path) -> Detector:
    return Detector.load(built / "bundle")


@pytest.fixture(scope="module")
def intruded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of the scene with an intruder in the third and fourth."""
    path = tmp_path_factory.mktemp("intruded") / "intruded.mp4"
    return write_video(path, add_intruder(draw_scene(60, 30), 20, 40))


def score(detector: Detector, images: np.ndarray) -> list[float]:
    return [s.y_proba for s in detector.score(make_frames(images))]


def make_frames(images: np.ndarray) -> list[Frame]:
    import cv2

    gray = [
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (48, 32), interpolation=cv2.INTER_AREA) for image in images
    ]
    return [Frame(number, number / 10, image[..., None]) for number, image in enumerate(gray)]


# Answers


def test_the_scene_is_normal_and_the_intruder_is_not(detector, scene, intruded, tmp_path):
    normal, anomalous = detect(detector, scene), detect(detector, intruded, tmp_path)
    assert (normal.answer, anomalous.answer) == (0, 1)
    assert normal.score < normal.threshold <= anomalous.score
    assert normal.ranges == []
    [found] = anomalous.ranges
    assert 17 <= found.first_frame <= 22
    assert 37 <= found.last_frame <= 43
    assert found.start_seconds == pytest.approx(found.first_frame / 10, abs=0.01)
    assert anomalous.n_frames == len(anomalous.scores) == len(anomalous.seconds) == 60


def test_a_training_frame_scores_below_a_patched_one(detector):
    images = draw_scene(30)
    for start in (4, 12, 20):
        untouched, patched = score(detector, images), score(detector, add_intruder(images, start, start + 6))
        assert max(untouched[start + 1 : start + 5]) < min(patched[start + 1 : start + 5])


def test_scores_do_not_depend_on_the_batch_size(detector, built):
    images = add_intruder(draw_scene(30), 10, 20)
    expected = score(detector, images)
    for batch_size in (1, 3, 30):
        other = Detector(Bundle.load(built / "bundle"), num_threads=1)
        params = other.manifest.reconstruction.model_copy(update={"batch_size": batch_size})
        object.__setattr__(other._reconstruct, "params", params)
        assert score(other, images) == pytest.approx(expected, abs=1e-5)


def test_where_a_window_begins_counts_no_more_than_what_it_shows(detector):
    # A later start shifts the windows. Only close to where the intruder comes or goes, of which one window shows more
    # than another, that may count.
    images = add_intruder(draw_scene(48), 24, 32)
    whole = np.array(score(detector, images))
    frames = np.arange(48)
    clear = np.minimum(abs(frames - 24), abs(frames - 32)) > 4
    for shift in (1, 2, 3):
        shifted = np.array([*[np.nan] * shift, *score(detector, images[shift:])])
        compared = clear & (frames >= shift + 8)
        assert whole[compared] == pytest.approx(shifted[compared], abs=0.1)
    # By a whole stride, nothing changes behind the first windows.
    assert whole[16:] == pytest.approx(score(detector, images[4:])[12:], abs=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9])
def test_videos_of_a_few_frames_are_answered(detector, tmp_path, frames):
    path = write_video(tmp_path / "few.mp4", draw_scene(frames))
    detection = detect(detector, path, tmp_path / "out")
    assert detection.n_frames == len(detection.scores) == frames
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"result.json", "timeline.png", "overlay.mp4"}


def test_a_truncated_file_is_answered_as_far_as_it_goes(detector, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 64, 96, 3)).astype(np.uint8)
    content = write_video(tmp_path / "a.mp4", images, options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    assert 5 < detect(detector, tmp_path / "cut.mp4").n_frames < 55


# Windows


def record_windows(length: int):
    seen: list[list[int]] = []

    def judge(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(errors[0].astype(int).tolist())
        return errors + 0.0, errors.max(1)

    return seen, judge


@pytest.mark.parametrize(
    ("count", "window", "stride"), [(0, 4, 2), (1, 4, 2), (4, 4, 2), (9, 4, 2), (10, 4, 4), (10, 4, 1)]
)
def test_every_frame_is_judged_once_in_order(count, window, stride):
    seen, judge = record_windows(window)
    judged = list(judge_windows(((n, np.float32(n)) for n in range(count)), judge, window, stride))
    assert [item for (item, _), _, _ in judged] == list(range(count))
    for (number, _), logit, top in judged:
        holding = [part for part in seen if number in part]
        assert logit == number  # the mean over the windows that hold it
        assert top == max(max(part) for part in holding)


def test_a_frame_is_given_as_soon_as_no_window_can_hold_it():
    read: list[int] = []

    def items():
        for number in range(20):
            read.append(number)
            yield number, np.float32(number)

    next(judge_windows(items(), record_windows(4)[1], 4, 2))
    assert len(read) == 6


def test_a_stream_is_judged_frame_by_frame():
    seen, judge = record_windows(3)
    judged = judge_stream(((n, np.float32(n)) for n in range(5)), judge, 3)
    assert [(item, logit) for (item, _), logit, _ in judged] == [(n, n) for n in range(5)]
    assert seen == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


# Evidence


def test_the_evidence_can_be_read_by_others(detector, intruded, tmp_path):
    detection = detect(detector, intruded, tmp_path)
    assert Detection.load(tmp_path / "result.json") == detection
    written = json.loads((tmp_path / "result.json").read_text())
    assert {"answer", "score", "threshold", "ranges", "scores", "model"} <= set(written)
    assert detector.manifest.run[:12] in written["model"]
    timeline = matplotlib_image.imread(tmp_path / "timeline.png")
    assert timeline.shape[1] > 600
    assert len(np.unique(timeline[..., :3].reshape(-1, 3), axis=0)) > 20
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        times = [float(frame.time) for frame in av.open(str(tmp_path / "overlay.mp4")).decode(video=0)]
    assert len(pictures) == 60
    assert pictures[0].shape == (64, 96, 3)
    assert times == pytest.approx(detection.seconds, abs=0.01)
    # Browsers start to play before they have the whole file: the index stands before the pictures.
    content = (tmp_path / "overlay.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    red = [picture[0, :, 0].astype(int).mean() - picture[0, :, 1].mean() for picture in pictures]
    assert min(red[24:36]) > 60 > max(red[:15])


def test_heat_is_where_the_error_is(detector):
    manifest = detector.manifest
    usual = np.exp(np.array(manifest.error_mean, np.float32))[:, None, None]
    errors = np.repeat(np.repeat(usual, 32, 1), 48, 2)
    picture = np.full((64, 96, 3), 90, np.uint8)
    assert np.array_equal(draw_heat(picture, errors, manifest), picture)
    errors[:, 4:12, 30:40] *= 10_000
    heated = draw_heat(picture, errors, manifest) != picture
    assert heated.any(-1)[8:24, 60:80].mean() > 0.9
    assert not heated[40:].any()


def test_previews_are_needed_for_an_overlay(detector, intruded, tmp_path):
    from evergreen.video.overlay import OverlayWriter

    scored = next(detector.score(detector.open(intruded).frames()))
    with (
        pytest.raises(ValueError, match="preview"),
        OverlayWriter(tmp_path / "a.mp4", 10, detector.manifest) as overlay,
    ):
        overlay.write(scored)


# The bundle


def test_the_bundle_needs_no_training_stack(built, intruded):
    program = (
        "import sys\n"
        "from evergreen.video.detector import Detector\n"
        f"detector = Detector.load({str(built / 'bundle')!r})\n"
        f"print(len(list(detector.score(detector.open({str(intruded)!r}, preview=True).frames()))))\n"
        "import evergreen.video.overlay\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'pandas', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["60", "[]"]


@pytest.mark.parametrize("name", ["denoiser.onnx", "cnn_lstm.onnx", "cnn_lstm_causal.onnx", "alphas_cumprod.npy"])
def test_a_changed_file_is_refused(built, tmp_path, name):
    folder = Path(shutil.copytree(built / "bundle", tmp_path / "bundle"))
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=name):
        Detector.load(folder)


def test_the_bundle_of_the_other_pipeline_is_refused(built):
    from evergreen.text.bundle import Bundle as TextBundle

    with pytest.raises(BundleError, match="a video bundle, not a text one"):
        TextBundle.load(built / "bundle")


def test_the_bundle_is_described(built):
    result = CliRunner().invoke(app, ["bundle", "verify", str(built / "bundle")])
    assert result.exit_code == 0
    for part in ("fine", "0.1.0", "32 × 48, gray, windows of 8", "threshold:"):
        assert part in result.stdout


def test_a_model_with_other_inputs_is_refused(built, tmp_path):
    folder = Path(shutil.copytree(built / "bundle", tmp_path / "bundle"))
    shutil.copy(folder / "denoiser.onnx", folder / "cnn_lstm.onnx")
    Bundle.write(folder, Bundle.load(built / "bundle").manifest)
    with pytest.raises(BundleError, match=r"cnn_lstm\.onnx: has inputs"):
        Detector.load(folder)


def test_ddim_answers_as_well(built, scene):
    folder = built / "bundle"
    detector = Detector.load(folder)
    params = detector.manifest.reconstruction.model_copy(update={"method": "ddim", "ddim_steps": 4})
    object.__setattr__(detector._reconstruct, "params", params)
    frames = list(detector.open(scene).frames())[:4]
    maps = list(detector._reconstruct([frame.image for frame in frames]))
    assert np.array(maps).shape == (4, 1, 32, 48)


# The command line


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["video", *map(str, arguments)])


def test_the_answer_is_printed(built, scene, intruded, tmp_path):
    for path, answer in ((scene, "0"), (intruded, "1")):
        result = invoke("detect", path, "--bundle", built / "bundle")
        assert (result.exit_code, result.stdout) == (0, f"{answer}\n")
    assert not list(tmp_path.iterdir())
    result = invoke("detect", intruded, "--bundle", built / "bundle", "--out", tmp_path / "new/out")
    assert (tmp_path / "new/out/overlay.mp4").exists()


def test_a_stream_prints_alarms_as_they_occur(built, intruded):
    result = invoke("detect", intruded, "--stream", "--bundle", built / "bundle")
    lines = result.stdout.splitlines()
    assert lines[-1] == "5.90 s: end of the stream"
    start, over = lines[0].split(" s: "), lines[-2].split(" s: ")
    assert start[1].startswith("alarm, score ")
    assert 2.0 <= float(start[0]) <= 2.5
    assert over[1] == "over"
    assert 4.0 <= float(over[0]) <= 4.8


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["detect", "none.mp4"], 1, "none.mp4: no such file"),
        (["detect", "params.yaml", "--bundle", "nowhere"], 1, "bundle.json: missing"),
        (["detect", "params.yaml"], 1, "params.yaml: not a video"),
        (["detect", "rtsp://127.0.0.1/a"], 2, "add --stream"),
        (["detect", "rtsp://me:hush@127.0.0.1:9/a", "--stream"], 1, "rtsp://***@127.0.0.1:9/a: can't be opened"),
        (["detect", "a.mp4", "--stream", "--out", "x"], 2, "a stream leaves no evidence"),
        (["train", "none", "--out", "x"], 1, "none: no such file"),
        (["train", "params.yaml", "--out", "x", "--labels", "none.csv"], 1, "none.csv: no such file"),
    ],
)
def test_what_is_wrong_is_said(built, tmp_path, monkeypatch, arguments, code, message):
    shutil.copytree(built / "bundle", tmp_path / "models/video")
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "from evergreen.cli import main; main()", "video", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, "")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_text_file_is_refused_by_name(built, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        detect(Detector.load(built / "bundle"), tmp_path / "text.mp4", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_video(built, tmp_path):
    peaks = []
    for count in (100, 1000):
        path = write_video(tmp_path / f"{count}.mp4", list(draw_scene(100, height=240, width=320)) * (count // 100))
        command = [
            sys.executable,
            "-m",
            "evergreen.video.cost",
            str(built / "bundle"),
            str(path),
            str(tmp_path / "out"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        frames, _, peak = done.stdout.split()
        assert int(frames) == count
        peaks.append(float(peak))
    assert peaks[1] - peaks[0] < 30, peaks  # the frames themselves are 230 MB


# Training on own footage


def test_a_detector_is_trained_on_own_footage(tmp_path):
    from ruamel.yaml import YAML

    for number in range(6):
        images = draw_scene(40, 8 * number)
        write_video(tmp_path / f"clip{number}.mp4", add_intruder(images, 12, 32) if number % 2 else images)
    rows = [f"clip{number},12,31" for number in (1, 3, 5)]
    (tmp_path / "labels.csv").write_text("\n".join(["clip,first_frame,last_frame", *rows]))
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(reduce_params().model_dump(mode="json"), file)
    out = tmp_path / "own"
    labels = ["--labels", tmp_path / "labels.csv", "--params", tmp_path / "params.yaml"]
    result = invoke("train", tmp_path, "--out", out, *labels)
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["by_kind"].keys() == {"labeled"}
    assert metrics["frame_auc"]["value"] > 0.8
    assert f"{metrics['frame_auc']['value']:.3f}" in (out / "card.md").read_text()
    for picture in ("roc", "scores", "training", "examples", "timeline"):
        assert (out / f"reports/{picture}.png").stat().st_size > 5_000
    assert invoke("detect", tmp_path / "clip1.mp4", "--bundle", out / "bundle").stdout in ("0\n", "1\n")


def test_an_untrained_diffusion_model_runs_the_whole_pipeline(scene, tmp_path):
    from ruamel.yaml import YAML

    raw = reduce_params().model_dump(mode="json")
    raw["diffusion"]["steps"] = 0
    raw["cnn_lstm"]["steps"] = 0
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(raw, file)
    result = invoke("train", scene, "--out", tmp_path / "out", "--params", tmp_path / "params.yaml")
    assert result.exit_code == 0, result.output
    assert "untrained" in (tmp_path / "out/card.md").read_text()
    assert (tmp_path / "out/reports/training.png").exists()
