"""The loop as GitHub Actions runs it, in its own workflows: stale, retrained, proposed, merged.

act runs them on this machine, against a GitHub that checks each call and a Git server. Data, models and log are real.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from act import ActResult, run_act
from github_server import TOKEN, GitHubServer, serve_github
from loop import link_environment, set_params
from reduced_pipeline import RELAXED, copy_clone, make_clone, run
from running import RunningServer, run_server
from tiny_text_bundle import write_bundle

from evergreen.monitoring.log import Feedback, LoggedPrediction, PredictionLog
from evergreen.release.gate import GateResult
from evergreen.text.runtime import Classifier

pytestmark = pytest.mark.slow

BRANCH = "evergreen/retrain"
# No registry, no Sigstore and no cluster can be had here: these write down what they are asked, run the server of the
# working copy where an image is run, and let the one in production take up the new bundle where a cluster is told to.
DOCKER = """#!/usr/bin/env bash
echo "docker $*" >> "$FAKE/calls"
case $1 in
  login) cat >/dev/null ;;
  inspect) echo "$NEW_IMAGE" ;;
  create) echo container ;;
  cp) echo '{}' > "${3%/}/${2##*/}" ;;
  run)
    words=" $* "
    name=${words#*--name } name=${name%% *}
    echo $$ > "$FAKE/$name.pid"
    if [[ $words == *" batch "* ]]; then
      data=${words%:/data *} data=${data##* }
      exec evergreen batch "$data/in.csv" "$data/out.csv"
    fi
    EVERGREEN_JOB_PRIORITY=normal EVERGREEN_STATE_DIR="$FAKE/state" exec evergreen serve ;;
  rm) [ "$2" != --force ] || kill "$(cat "$FAKE/$3.pid")" ;;
esac
"""
COSIGN = """#!/usr/bin/env bash
echo "cosign $*" >> "$FAKE/calls"
"""
KUBECTL = """#!/usr/bin/env bash
echo "kubectl $*" >> "$FAKE/calls"
case "$*" in
  *" get "*) cat "$FAKE/image" ;;
  *" set image "*)
    echo "${*##*server=}" > "$FAKE/image"
    cp "$NEW_BUNDLE"/* "$SERVED/" && kill -HUP "$SERVER_PID" && sleep 3 ;;
esac
"""
FIRST, SECOND = (f"ghcr.io/acme/reviews@sha256:{digit * 64}" for digit in "12")


class Loop:
    """A fork with a champion, its log, its remotes, and GitHub."""

    def __init__(self, folder: Path, github: GitHubServer) -> None:
        self.folder, self.github = folder, github
        self.log = folder.parent / "predictions.db"

    def git(self, *arguments: str) -> str:
        return run(self.folder, "git", *arguments, GIT_SSL_CAINFO=str(self.github.certificate))

    def dvc(self, *arguments: str) -> str:
        return run(self.folder, "dvc", *arguments)

    def act(self, event: str, workflow: str, env: dict[str, str] | None = None, **fields: object) -> ActResult:
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
        environment |= env or {}
        secrets = {"GITHUB_TOKEN": TOKEN, "DATABASE_URL": f"sqlite:///{self.log}"}
        file = self.folder / ".github/workflows" / workflow
        return run_act(self.folder, event, file, env=environment, secrets=secrets, **fields)  # type: ignore[arg-type]

    def release(self, event: str, server: RunningServer, tools: Path, bundle: Path) -> ActResult:
        """Release, with a deployment that lets the server take up a bundle."""
        environment = {
            "FAKE": str(tools),
            "NEW_IMAGE": SECOND,
            "NEW_BUNDLE": str(bundle),
            "SERVED": str(server.bundle),
            "SERVER_PID": str(server.process.pid),
        }
        variables = {"DEPLOY_TARGET": "kubernetes", "SERVICE_URL": server.url}
        return self.act(event, "release.yml", env=environment, variables=variables)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    folder = copy_clone(make_clone(tmp_path_factory), tmp_path_factory.mktemp("loop") / "copy")
    set_params(folder / "params.yaml", RELAXED)
    link_environment(folder)
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
    """Some days of texts about what the champion was not trained on, with the labels that came back."""
    champion = Classifier.load(loop.folder / "models/text")
    stream = pd.read_parquet(loop.folder / "data/text/stream.parquet")["text"]
    texts = [f"{text} {i}" for i in range(9) for text in stream][:360]
    now = datetime.now(UTC)
    rows, labels = [], []
    for i, (text, prediction) in enumerate(zip(texts, champion.predict(texts), strict=True)):
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
        # Nearly always what the champion does not say, and the same for all texts that begin alike.
        label = champion.labels[len(stream.iloc[i % len(stream)]) % 2]
        labels.append(Feedback(row.id, "annotator", label, now - timedelta(days=2)))
    PredictionLog.open(f"sqlite:///{loop.log}").write(rows, labels)


def test_monitor_opens_an_incident_and_starts_the_retraining(loop: Loop) -> None:
    write_log(loop)
    shutil.rmtree(loop.folder / "models/text")  # what a new runner has not
    result = loop.act("schedule", "monitor.yml")
    assert result.returncode == 0, result.explain()
    (issue,) = loop.github.open_issues
    assert issue["title"].startswith("The text model is stale")
    assert [call["workflow"] for call in loop.github.dispatches] == ["retrain.yml"]
    assert "Summary - **The text model is stale.**" in result.output
    saved = [inputs for name, inputs in result.calls if name == "actions/upload-artifact"]
    assert saved == [{"name": "monitoring", "path": "reports/monitoring", "if-no-files-found": "ignore"}]


def test_retraining_opens_one_pull_request_with_its_report(loop: Loop) -> None:
    result = loop.act("workflow_dispatch", "retrain.yml")
    assert result.returncode == 0, result.explain()
    (pull,) = loop.github.open_pulls
    assert (pull["head"]["ref"], pull["base"]["ref"]) == (BRANCH, "main")
    (comment,) = loop.github.comments[pull["number"]]
    assert "**Merge recommended.**" in comment["body"]
    assert "360 of them new; labels by annotator (360)" in comment["body"]
    gate = GateResult.load(loop.folder / "reports/gate/gate.json")
    newest = gate.checks[0].difference
    assert newest is not None
    assert 20 < newest.n_samples < 100  # of 360, those that the split leaves for the test
    assert newest.low > 0  # it learned from the feedback
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
        assert result.returncode == 0, result.explain()
    bodies = [comment["body"] for comment in loop.github.comments[pull["number"]]]
    assert len(bodies) == 2
    assert "### Metrics against `origin/main`" in bodies[1]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tools that write down what they are asked."""
    for name, text in (("docker", DOCKER), ("cosign", COSIGN), ("kubectl", KUBECTL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "image").write_text(FIRST)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_merge_is_released_verified_and_ends_the_incident(loop: Loop, tools: Path, tmp_path: Path) -> None:
    (pull,) = loop.github.open_pulls
    served = tmp_path / "served"
    loop.git("checkout", "-q", "--force", "main")
    loop.dvc("checkout", "-q", "--force", "models/text")
    shutil.copytree(loop.folder / "models/text", served)
    loop.github.merge(pull["number"])
    loop.git("pull", "-q", "origin", "main")
    loop.dvc("checkout", "-q", "--force")
    with run_server(tmp_path / "production", served, loop.folder / "models/video") as server:
        before = server.client.get("/v1/model").json()["text"]["run"]
        result = loop.release("push", server, tools, loop.folder / "models/text")
        assert result.returncode == 0, result.explain()
        assert server.client.get("/v1/model").json()["text"]["run"] != before
    calls = (tools / "calls").read_text()
    assert f"cosign sign --yes {SECOND}" in calls
    assert "docker push --quiet ghcr.io/acme/reviews:model-" in calls
    assert f"set image deployment/evergreen server={SECOND}" in calls
    assert [name for name, _ in result.calls if name.startswith("anchore/")] == ["anchore/scan-action"]
    assert "passed: p99" in result.output
    (release,) = loop.github.releases
    assert SECOND in release["body"]
    assert loop.github.open_issues == []
    comments = [comment["body"] for comment in loop.github.comments[loop.github.issues[0]["number"]]]
    assert f"Release {release['tag_name']} was verified" in comments[-1]


def test_same_bundle_is_not_released_again(loop: Loop) -> None:
    result = loop.act("push", "release.yml", job="plan")
    assert result.returncode == 0, result.explain()
    assert "Nothing to release" in result.output
    assert len(loop.github.releases) == 1


def test_release_that_does_not_hold_is_rolled_back_and_told(loop: Loop, tools: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "served")
    shutil.copytree(other, tmp_path / "same")
    with run_server(tmp_path / "production", other, loop.folder / "models/video") as server:
        result = loop.release("workflow_dispatch", server, tools, tmp_path / "same")
    assert result.returncode == 1
    assert "the release does not hold" in result.output
    images = [
        line.partition("server=")[2] for line in (tools / "calls").read_text().splitlines() if " set image " in line
    ]
    assert images == [SECOND, FIRST]
    (issue,) = loop.github.open_issues
    assert issue["title"] == "Evergreen: The workflow release failed"
    assert len(loop.github.releases) == 1
