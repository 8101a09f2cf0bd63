"""A Git repository with DVC: the champion on main, a challenger in the folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tiny_text_bundle import LABELS, write_bundle

from evergreen.text.evaluation_metrics import TextMetrics
from evergreen.text.runtime import Classifier

ROOT = Path(__file__).parents[2]
TEXTS = [f"word{i % 200} flight word{(7 * i) % 200} {i}" for i in range(600)]
IDENTITY = {
    "GIT_CONFIG_GLOBAL": "/nowhere/gitconfig",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}


def run(folder: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the environment in a folder."""
    variables = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "COLUMNS": "300",
    }
    variables |= IDENTITY | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def write_metrics(folder: Path, **changes: Any) -> None:
    metrics = TextMetrics.load(ROOT / "metrics/text.json").model_copy(update=changes)
    metrics.save(folder / "metrics/text.json")


def make_repository(folder: Path) -> Path:
    """The main revision has a champion; in the folder is a challenger that answers as the labels say."""
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
