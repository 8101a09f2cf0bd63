"""`evergreen gate` in a repository with DVC: the champion comes from a revision, from a folder, or there is none."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from gated_repository import make_repository, run, write_metrics
from tiny_text_bundle import write_bundle

from evergreen.metrics import Estimate
from evergreen.release.gate import GateResult
from evergreen.text.evaluation_metrics import Scores

pytestmark = pytest.mark.slow


def gate(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return run(folder, "evergreen", "gate", *options)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repository")


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


def test_a_baseline_that_was_not_fitted_is_named(repository: Path) -> None:
    unfitted = {"tfidf_logistic_regression": "no terms remain"}
    weak = Estimate(value=0.3, low=0.2, high=0.4)
    some = {"majority_class": Scores(accuracy=weak, macro_f1=weak)}
    write_metrics(repository, baselines=some, unfitted_baselines=unfitted)
    result = gate(repository, "--champion", "main~1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Not fitted: tfidf_logistic_regression." in result.stdout
    write_metrics(repository, baselines={}, unfitted_baselines=unfitted)
    result = gate(repository, "--champion", "main~1")
    assert result.returncode == 4, result.stdout + result.stderr
    assert "No baseline could be fitted: no terms remain." in result.stdout


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
