"""The steps of retrain.yml as commands, in a repository with DVC."""

import json
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from gated_repository import ROOT, run
from monitored import make_params, make_windows

from evergreen.monitoring.log import Feedback, LoggedPrediction, PredictionLog
from evergreen.monitoring.staleness import judge

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    stage = "stages:\n  train:\n    cmd: echo model > model\n    deps: [data/corpora]\n    outs: [model]\n"
    (folder / "dvc.yaml").write_text(stage)
    (folder / "data/corpora").mkdir(parents=True)
    (folder / "data/corpora/README.md").write_text("Texts.\n")
    for command in (["git", "init", "-q", "-b", "main"], ["dvc", "init", "-q"], ["git", "add", "-A"]):
        assert run(folder, *command).returncode == 0
    run(folder, "git", "commit", "-qm", "first")
    return folder


def log_labels(folder: Path, *labels: str, hours: int = 0) -> None:
    log = PredictionLog.open(f"sqlite:///{folder / '.evergreen/predictions.db'}")
    now = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(hours=hours)
    for i, label in enumerate(labels):
        row = LoggedPrediction(
            id=f"{hours}-{i}",
            kind="text",
            source="live",
            label="neutral",
            probabilities={"neutral": 1.0},
            model="text 0.1.0 abc",
            observed_at=now,
            text=f"text {hours} {i}",
        )
        log.write([row], [Feedback(row.id, "annotator", label, now)])


def test_feedback_is_collected_under_dvc_and_trained_on(repository: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    log_labels(repository, "positive", "negative", "unknown")
    first = run(repository, "evergreen", "feedback", "collect", GITHUB_STEP_SUMMARY=str(summary))
    assert first.returncode == 0, first.stderr
    assert "2 new labels, 0 changed; 2 in data/corpora/feedback.parquet" in first.stdout
    assert "1 not taken: a label that is not in data.labels" in summary.read_text()
    assert (repository / "data/corpora/feedback.parquet.dvc").exists()
    assert json.loads((repository / "data/corpora/feedback.json").read_text())["n_samples"] == 2
    trained = run(repository, "evergreen", "retrain", "run")
    assert trained.returncode == 0, trained.stderr
    run(repository, "git", "add", "-A")
    run(repository, "git", "commit", "-qm", "feedback")
    assert "feedback.parquet\n" not in run(repository, "git", "ls-files").stdout
    assert run(repository, "dvc", "status", "-q").returncode == 0
    log_labels(repository, "neutral", hours=1)
    second = run(repository, "evergreen", "feedback", "collect")
    assert "1 new labels, 0 changed; 3 in" in second.stdout
    assert len(pd.read_parquet(repository / "data/corpora/feedback.parquet")) == 3
    assert "train" in run(repository, "dvc", "status").stdout  # it depends on the corpora


def test_feedback_that_was_not_pulled_is_not_replaced(repository: Path) -> None:
    log_labels(repository, "positive")
    run(repository, "evergreen", "feedback", "collect")
    (repository / "data/corpora/feedback.parquet").unlink()
    result = run(repository, "evergreen", "feedback", "collect")
    assert result.returncode == 1
    assert "dvc pull data/corpora/feedback.parquet" in result.stderr


def test_warm_start_is_from_the_committed_champion(repository: Path) -> None:
    """However often the stage has written weights since; and a clone can make it again."""
    code = "mkdir -p models/text-weights && cat models/champion-weights/w 2>/dev/null | wc -l > models/text-weights/w; date +%N >> models/text-weights/w"
    stage = f"stages:\n  train:\n    cmd: {code}\n    deps: [params.yaml]\n    outs: [models/text-weights]\n    always_changed: true\n"
    (repository / "dvc.yaml").write_text(stage)
    assert run(repository, "evergreen", "retrain", "run").returncode == 0
    weights, copy = repository / "models/text-weights/w", repository / "models/champion-weights/w"
    assert not copy.exists()
    champion = weights.read_text()
    run(repository, "git", "add", "-A")
    run(repository, "git", "commit", "-qm", "champion")
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("warm_start: null ", "warm_start: models/champion-weights "))
    for _ in range(2):  # the second time text-weights are the challenger's
        done = run(repository, "evergreen", "retrain", "run")
        assert done.returncode == 0, done.stderr
        assert copy.read_text() == champion
        assert weights.read_text() != champion
    assert [path.name for path in copy.parent.iterdir()] == ["w"]
    commit = run(
        repository,
        sys.executable,
        "-c",
        "from evergreen.release.proposal_branch import commit_proposal as c; print(c('new'))",
    )
    files = run(repository, "git", "show", "--stat", "--format=", commit.stdout.strip()).stdout
    assert "models/champion-weights.dvc" in files
    assert "models/champion-weights/" not in files


def test_warm_start_without_a_champion_names_the_remedy(repository: Path) -> None:
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("warm_start: null ", "warm_start: models/champion-weights "))
    done = run(repository, "evergreen", "retrain", "run")
    assert done.returncode == 1
    assert "dvc pull models/text-weights), or set train.warm_start to null" in done.stderr


def test_pipeline_that_fails_is_a_failure(repository: Path) -> None:
    stage = "stages:\n  train:\n    cmd: exit 3\n    deps: [params.yaml]\n    outs: [model]\n"
    (repository / "dvc.yaml").write_text(stage)
    assert run(repository, "evergreen", "retrain", "run").returncode == 1
    uri = str(repository / "copy")
    assert run(repository, "evergreen", "retrain", "run", EVERGREEN_CHECKPOINTS_URL=uri).returncode == 1


def test_nothing_is_started_unless_the_verdict_says_retrain(repository: Path) -> None:
    fresh = judge([], make_windows(300), make_params(), [])
    fresh.save(repository / "reports/monitoring/verdict.json")
    result = run(repository, "evergreen", "retrain", "start")
    assert result.returncode == 0, result.stderr
    assert "not started: the verdict is" in result.stdout
    missing = run(repository, "evergreen", "retrain", "start", "--verdict", "none.json")
    assert missing.returncode == 1
    assert "none.json: missing. Make it: evergreen monitor" in missing.stderr


@pytest.mark.parametrize("command", [["check"], ["propose"]])
def test_without_a_repository_at_github_the_variables_are_named(repository: Path, command: list[str]) -> None:
    result = run(repository, "evergreen", "retrain", *command, GITHUB_TOKEN="", GITHUB_REPOSITORY="")
    assert result.returncode == 1
    assert "set GITHUB_REPOSITORY (OWNER/NAME) and GITHUB_TOKEN" in result.stderr
