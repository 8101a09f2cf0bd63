"""`evergreen gate` in a repository with DVC: the champion comes from a revision, from a folder, or there is none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_text_bundle import LABELS, write_bundle

from evergreen.metrics import Estimate
from evergreen.release.gate import GateResult
from evergreen.text.evaluation_metrics import Scores, TextMetrics
from evergreen.text.runtime import Classifier

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEXTS = [f"word{i % 200} flight word{(7 * i) % 200} {i}" for i in range(600)]


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
        "DVC_NO_ANALYTICS": "1",
        "COLUMNS": "300",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def gate(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return run(folder, "evergreen", "gate", *options)


def write_metrics(folder: Path, **changes: Any) -> None:
    metrics = TextMetrics.load(ROOT / "metrics/text.json").model_copy(update=changes)
    metrics.save(folder / "metrics/text.json")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The main revision has a champion; in the folder is a challenger that answers as the labels say."""
    folder = tmp_path / "repository"
    folder.mkdir()
    params = (ROOT / "params.yaml").read_text()
    # The tiny bundles are sure at random.
    (folder / "params.yaml").write_text(params.replace("max_calibration_loss: 0.02", "max_calibration_loss: 1.0"))
    (folder / "dvc.yaml").write_text("stages:\n  train:\n    cmd: cp -r made models/text\n    outs: [models/text]\n")
    (folder / "models").mkdir()
    (folder / ".gitignore").write_text("made\n")
    for command in (["git", "init", "-q", "-b", "main"], ["dvc", "init", "-q"]):
        assert run(folder, *command).returncode == 0
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "first, without a model")
    write_bundle(folder / "made", seed=2)
    assert run(folder, "dvc", "repro", "-q").returncode == 0
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "champion")
    shutil.rmtree(folder / "models/text")
    write_bundle(folder / "models/text", seed=1)
    labels = [prediction.label for prediction in Classifier.load(folder / "models/text").predict(TEXTS)]
    rng = np.random.default_rng(0)
    labels = [label if rng.random() < 0.9 else LABELS[rng.integers(3)] for label in labels]
    times = pd.date_range("2026-02-01", "2026-04-01", periods=600, tz="UTC")
    (folder / "data/text").mkdir(parents=True)
    rows = {"text": TEXTS, "label": labels, "topic": "airline", "observed_at": times}
    pd.DataFrame(rows).to_parquet(folder / "data/text/test.parquet")
    write_metrics(folder)
    return folder


def test_better_challenger_passes(repository: Path) -> None:
    result = gate(repository, "--champion", "main", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    judged = GateResult.model_validate_json(result.stdout)
    assert judged == GateResult.load(repository / "reports/gate/gate.json")
    newest = judged.checks[0].difference
    assert newest is not None
    assert newest.low > 0.2
    assert 250 < newest.n_samples < 350  # those after the champion's first of March
    assert judged.agreement is not None
    assert judged.agreement < 0.8
    assert len(judged.changed) == 12


def test_worse_challenger_does_not(repository: Path) -> None:
    shutil.rmtree(repository / "models/text")
    write_bundle(repository / "models/text", seed=3)
    result = gate(repository, "--champion-bundle", "made")
    assert result.returncode == 4, result.stdout + result.stderr
    assert "The challenger does not pass: newest texts, accuracy" in result.stdout
    assert not json.loads((repository / "reports/gate/gate.json").read_text())["passed"]


def test_without_a_champion_the_baseline_is_to_be_beaten(repository: Path) -> None:
    result = gate(repository, "--champion", "main~1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "there is no champion to compare with" in result.stdout
    assert "main~1 has no bundle. Accuracy 0.8" in result.stdout
    weak = Estimate(value=0.7, low=0.6, high=0.8)
    write_metrics(repository, accuracy=weak, baselines={"majority_class": Scores(accuracy=weak, macro_f1=weak)})
    assert gate(repository, "--champion", "main~1").returncode == 4


def test_champion_that_can_not_be_fetched_is_named(repository: Path) -> None:
    shutil.rmtree(repository / ".dvc/cache")
    result = gate(repository, "--champion", "main")
    assert result.returncode == 1
    assert "the champion of main can't be fetched" in result.stderr
    assert "--champion-bundle" in result.stderr
    unknown = gate(repository, "--champion", "mian")
    assert unknown.returncode == 1
    assert "mian: no such revision here" in unknown.stderr
    assert "Traceback" not in result.stderr + unknown.stderr
