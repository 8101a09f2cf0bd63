"""The loop as GitHub Actions runs it, in its own workflows: stale, retrained, proposed, merged.

act runs them on this machine, against a GitHub that checks each call and a Git server. Data, models and log are real.
"""

import hashlib
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from github_server import TOKEN, GitHubServer, serve_github
from reduced_pipeline import ROOT, copy_clone, make_clone, run
from ruamel.yaml import YAML

sys.path.insert(0, str(ROOT / "tests/workflows"))
from act import ActResult, run_act

from evergreen.monitoring.log import Feedback, LoggedPrediction, PredictionLog
from evergreen.text.runtime import Classifier

pytestmark = pytest.mark.slow

BRANCH = "evergreen/retrain"
RELAXED = {
    # Some dozens of texts prove nothing: what is tested here is what follows from the gate, not the gate.
    "gate.min_new_samples": 10,
    "gate.min_gain": -1.0,
    "gate.max_loss": 1.0,
    "gate.max_slice_loss": 1.0,
    "gate.max_calibration_loss": 1.0,
    "gate.max_latency_ratio": 100.0,
}


class Loop:
    """A fork with a champion, its log, its remotes, and GitHub."""

    def __init__(self, folder: Path, github: GitHubServer) -> None:
        self.folder, self.github = folder, github
        self.log = folder.parent / "predictions.db"

    def act(self, event: str, workflow: str, **fields: object) -> ActResult:
        site = self.github.url.removesuffix("/api/v3")
        environment = {
            "GITHUB_API_URL": self.github.url,
            "GITHUB_SERVER_URL": site,
            "GITHUB_REPOSITORY": "acme/reviews",
            "REQUESTS_CA_BUNDLE": str(self.github.certificate),
            "GIT_SSL_CAINFO": str(self.github.certificate),
            "EVERGREEN_PULL_REQUESTS": "rest",
            "HOME": str(self.folder.parent / "home"),
        }
        secrets = {"GITHUB_TOKEN": TOKEN, "DATABASE_URL": f"sqlite:///{self.log}"}
        file = self.folder / ".github/workflows" / workflow
        return run_act(self.folder, event, file, env=environment, secrets=secrets, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    folder = copy_clone(make_clone(tmp_path_factory), tmp_path_factory.mktemp("loop") / "copy")
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for key, value in RELAXED.items():
        section, name = key.split(".")
        assert name in params[section]
        params[section][name] = value
    yaml.dump(params, folder / "params.yaml")
    # The environment of the tests, as the setup action leaves it.
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
    for stamp in ("train.stamp", "dev.stamp"):
        (folder / ".venv" / stamp).touch()
    run(folder, "dvc", "remote", "modify", "--local", "local", "url", str(folder.parent / "remote"))
    run(folder, "git", "branch", "-M", "main")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "champion")
    run(folder, "dvc", "push", "-q")
    origin = folder.parent / "origin.git"
    run(folder, "git", "clone", "-q", "--bare", str(folder), str(origin))
    with serve_github("/api/v3", tls=True, git_folder=origin) as github:
        address = f"{github.url.removesuffix('/api/v3')}/acme/reviews.git"
        run(folder, "git", "remote", "add", "origin", address)
        run(folder, "git", "fetch", "-q", "origin", GIT_SSL_CAINFO=str(github.certificate))
        github.add_workflow("retrain.yml")
        yield Loop(folder, github)


def write_log(loop: Loop) -> None:
    """A week of texts about what the champion was not trained on, with the labels that came back."""
    champion = Classifier.load(loop.folder / "models/text")
    stream = pd.read_parquet(loop.folder / "data/text/stream.parquet").head(20)
    whole = (
        pd.read_parquet(ROOT / "data/text/stream.parquet") if (ROOT / "data/text/stream.parquet").exists() else stream
    )
    texts = [f"{text} {i}" for i in range(16) for text in stream["text"]] if len(whole) < 320 else whole["text"][:320]
    now = datetime.now(UTC)
    rows, labels = [], []
    for i, (text, prediction) in enumerate(zip(texts, champion.predict(list(texts)), strict=True)):
        wrong = next(label for label in champion.labels if label != prediction.label)
        row = LoggedPrediction(
            id=hashlib.sha256(f"{i}{text}".encode()).hexdigest(),
            kind="text",
            source="live",
            label=prediction.label,
            probabilities=prediction.probabilities,
            model=champion.manifest.identity,
            observed_at=now - timedelta(days=3, minutes=i),
            text=text,
        )
        rows.append(row)
        labels.append(Feedback(row.id, "annotator", wrong if i % 3 else prediction.label, now - timedelta(days=2)))
    PredictionLog.open(f"sqlite:///{loop.log}").write(rows, labels)


def test_monitor_opens_an_incident_and_starts_the_retraining(loop: Loop) -> None:
    write_log(loop)
    shutil.rmtree(loop.folder / "models/text")  # what a new runner has not
    result = loop.act("schedule", "monitor.yml")
    assert result.returncode == 0, result.output[-6000:]
    (issue,) = loop.github.open_issues
    assert issue["title"].startswith("The text model is stale")
    assert [call["workflow"] for call in loop.github.dispatches] == ["retrain.yml"]
    assert "Summary - **The text model is stale.**" in result.output
    saved = [inputs for name, inputs in result.calls if name == "actions/upload-artifact"]
    assert saved == [{"name": "monitoring", "path": "reports/monitoring", "if-no-files-found": "ignore"}]


def test_retraining_opens_one_pull_request_with_its_report(loop: Loop) -> None:
    result = loop.act("workflow_dispatch", "retrain.yml", inputs={"runner": "ubuntu-latest"})
    assert result.returncode == 0, result.output[-6000:]
    (pull,) = loop.github.open_pulls
    assert (pull["head"]["ref"], pull["base"]["ref"]) == (BRANCH, "main")
    (comment,) = loop.github.comments[pull["number"]]
    assert "**Merge recommended.**" in comment["body"]
    assert "labels by annotator (" in comment["body"]
    assert "The text model is stale" in comment["body"] or "Stale:" in comment["body"]
    changed = run(
        loop.folder, "git", "--git-dir", str(loop.folder.parent / "origin.git"), "diff", "--name-only", "main", BRANCH
    )
    assert {"dvc.lock", "metrics/text.json", "data/corpora/feedback.parquet.dvc"} <= set(changed.split())
    # A reviewer's clone gets the model with dvc pull: it was pushed.
    assert loop.github.open_issues  # nothing failed, and the incident is still open
    assert [issue["title"] for issue in loop.github.open_issues if "failed" in issue["title"]] == []


def test_checks_of_the_proposal_pass_and_its_metrics_are_compared(loop: Loop) -> None:
    (pull,) = loop.github.open_pulls
    run(loop.folder, "git", "checkout", "-q", "--force", pull["head"]["sha"])
    payload = {"pull_request": pull | {"number": pull["number"]}, "number": pull["number"]}
    environment = {"GITHUB_BASE_REF": "main"}
    for job in ("pipeline", "report"):
        result = loop.act("pull_request", "ci.yml", job=job, payload=payload, variables=environment)
        assert result.returncode == 0, result.output[-6000:]
    bodies = [comment["body"] for comment in loop.github.comments[pull["number"]]]
    assert len(bodies) == 2
    assert "### Metrics against `origin/main`" in bodies[1]
