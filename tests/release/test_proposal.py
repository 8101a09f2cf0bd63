"""From the gate to GitHub: one pull request, one report, nothing of anybody's lost; a rejection is respected."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gated_repository import IDENTITY, ROOT, make_repository, run
from github_server import TOKEN, GitHubServer, serve_github
from monitored import make_params, make_windows

from evergreen.github import RetryPolicy
from evergreen.monitoring.staleness import judge
from evergreen.release.cml import CmlError
from evergreen.release.proposal import Outcome, check_cooldown, propose
from evergreen.release.proposal_branch import BRANCH, BranchError
from evergreen.release.pull_requests import PullRequests
from evergreen.settings import RetrainingSettings
from evergreen.written import WrittenFileError

pytestmark = pytest.mark.slow

POLICY = RetryPolicy(tries=3, first_wait=0.0, longest_wait=1.0, deadline=60.0, seconds_between_writes=0.0)
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pipeline, the monitor and the gate left for a challenger that is better."""
    folder = make_repository(tmp_path_factory.mktemp("gated") / "repository")
    (folder / "dvc.lock").write_text((folder / "dvc.lock").read_text() + "# of the challenger\n")
    shutil.copy(ROOT / "metrics/data.json", folder / "metrics")
    assert run(folder, "evergreen", "gate", "--champion", "main").returncode == 0
    verdict = judge([], make_windows(300), make_params(), [])
    verdict.save(folder / "reports/monitoring/verdict.json")
    (folder / "reports/text").mkdir()
    for plot in ("reports/monitoring/history.png", "reports/text/calibration.png"):
        (folder / plot).write_bytes(b"\x89PNG")
    (folder / "src").mkdir()
    (folder / "src/model.py").write_text("WIDTH = 1\n")
    ignored = "made\n/models/text\n/data/text\n/reports/monitoring\n/reports/gate\n"
    (folder / ".gitignore").write_text(ignored)
    run(folder, "git", "add", ".gitignore", "src", "metrics", "reports/text")
    run(folder, "git", "commit", "-qm", "code")
    return folder


class Repository:
    """A clone with a remote, and GitHub beside it."""

    def __init__(self, folder: Path, origin: Path, github: GitHubServer) -> None:
        self.folder, self.origin, self.github = folder, origin, github

    def git(self, *arguments: str, folder: Path | None = None) -> str:
        done = run(folder or self.folder, "git", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def connect(self, way: str = "rest") -> PullRequests:
        settings = {"github_token": TOKEN, "github_repository": "acme/reviews", "github_api_url": self.github.url}
        names = {field: RetrainingSettings.model_fields[field].alias or field for field in settings}
        given = {names[field]: value for field, value in settings.items()}
        return PullRequests(RetrainingSettings(**given, EVERGREEN_PULL_REQUESTS=way), POLICY)

    def propose(self, way: str = "rest") -> Outcome:
        files = [
            Path(f"reports/{name}") for name in ("gate/gate.json", "monitoring/verdict.json", "monitoring/history.png")
        ]
        return propose(self.connect(way), *files, "origin", "main", 14)

    def fail_gate(self) -> None:
        file = self.folder / "reports/gate/gate.json"
        gate = json.loads(file.read_text())
        gate |= {"passed": False, "summary": "The challenger does not pass: slices."}
        gate["checks"][1] |= {"status": "failed", "message": "topic `x` is *worse*"}
        file.write_text(json.dumps(gate))

    def change_challenger(self) -> None:
        lock = self.folder / "dvc.lock"
        lock.write_text(lock.read_text() + "# another\n")


@pytest.fixture
def repository(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    folder, origin = tmp_path / "repository", tmp_path / "origin.git"
    shutil.copytree(template, folder)
    run(tmp_path, "git", "clone", "-q", "--bare", str(folder), str(origin))
    run(folder, "git", "remote", "add", "origin", str(origin))
    run(folder, "git", "fetch", "-q", "origin")
    monkeypatch.chdir(folder)
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    with serve_github("/api/v3", tls=True, git_folder=origin) as github:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(github.certificate))
        yield Repository(folder, origin, github)


def test_pull_request_has_the_commit_and_one_report(repository: Repository) -> None:
    before = repository.git("rev-parse", "HEAD"), repository.git("status", "--porcelain")
    outcome = repository.propose()
    (pull,) = repository.github.pulls
    assert outcome.message == f"Opened {pull['html_url']}."
    assert (pull["head"]["ref"], pull["base"]["ref"]) == (BRANCH, "main")
    assert "nothing is proposed for 14 days" in pull["body"]
    changed = repository.git("diff", "--name-only", "main", BRANCH, folder=repository.origin).splitlines()
    assert changed == [
        "dvc.lock",
        *(f"reports/retraining/{name}" for name in ("gate.json", "history.png", "verdict.json")),
    ]
    (comment,) = repository.github.comments[pull["number"]]
    lines = comment["body"].splitlines()
    assert lines[0] == "<!-- evergreen-comment: report -->"
    assert lines[1].startswith("**Merge recommended.**")
    sha = repository.git("rev-parse", BRANCH, folder=repository.origin)
    assert f"/acme/reviews/blob/{sha}/reports/retraining/history.png?raw=true" in comment["body"]
    assert f"gh pr checkout {BRANCH}" in comment["body"]
    # The checkout is as it was, apart from the evidence.
    assert repository.git("rev-parse", "HEAD") == before[0]
    assert repository.git("status", "--porcelain") == f"{before[1]}\n?? reports/retraining/".strip()


def test_newer_challenger_takes_the_place_of_the_older(repository: Repository) -> None:
    repository.propose()
    repository.change_challenger()
    outcome = repository.propose()
    (pull,) = repository.github.pulls
    assert outcome.message == f"Updated {pull['html_url']}."
    (comment,) = repository.github.comments[pull["number"]]
    assert repository.git("rev-parse", BRANCH, folder=repository.origin) in comment["body"]
    assert repository.git("rev-list", "--count", f"main..{BRANCH}", folder=repository.origin) == "1"


def test_challenger_that_fails_has_no_pull_request(repository: Repository) -> None:
    repository.fail_gate()
    outcome = repository.propose()
    assert outcome.message == "Not proposed: The challenger does not pass: slices."
    assert outcome.report.startswith("**Do not merge.**")
    assert repository.github.pulls == []
    assert BRANCH not in repository.git("branch", "--list", folder=repository.origin)


def test_older_pull_request_is_withdrawn_and_counts_as_no_rejection(repository: Repository) -> None:
    repository.propose()
    repository.fail_gate()
    outcome = repository.propose()
    (pull,) = repository.github.pulls
    assert pull["state"] == "closed"
    assert "withdrawn" in outcome.message
    bodies = [comment["body"] for comment in repository.github.comments[pull["number"]]]
    assert any("Withdrawn: a newer challenger was trained." in body for body in bodies)
    assert check_cooldown(repository.connect(), "main", 14, datetime.now(UTC)).proceed


def test_rejection_is_respected_for_a_while(repository: Repository) -> None:
    repository.github.now = lambda: NOW
    assert check_cooldown(repository.connect(), "main", 14, NOW).proceed
    repository.propose()
    assert check_cooldown(repository.connect(), "main", 14, NOW).proceed  # it is open
    repository.github.close(1)
    decision = check_cooldown(repository.connect(), "main", 14, NOW + timedelta(days=13))
    assert not decision.proceed
    assert "closed without a merge on 1 June 2026: nothing is proposed until 15 June 2026" in decision.reason
    assert check_cooldown(repository.connect(), "main", 14, NOW + timedelta(days=15)).proceed


def test_merge_is_no_rejection(repository: Repository) -> None:
    repository.propose()
    repository.github.merge(1)
    assert check_cooldown(repository.connect(), "main", 14, datetime.now(UTC)).proceed


def test_pull_request_of_the_same_name_that_is_not_ours_is_no_rejection(repository: Repository) -> None:
    repository.git("push", "-q", "origin", f"HEAD:refs/heads/{BRANCH}")
    repository.github.add_pull(BRANCH, title="Mine", body="by hand")
    repository.github.close(1)
    assert check_cooldown(repository.connect(), "main", 14, datetime.now(UTC)).proceed


def test_work_of_others_on_the_branch_is_kept(repository: Repository, tmp_path: Path) -> None:
    repository.propose()
    work = tmp_path / "work"
    repository.git("clone", "-q", "--branch", BRANCH, str(repository.origin), str(work))
    repository.git("commit", "-q", "--allow-empty", "-m", "A reviewer's", folder=work)
    repository.git("push", "-q", folder=work)
    tip = repository.git("rev-parse", BRANCH, folder=repository.origin)
    repository.change_challenger()
    with pytest.raises(BranchError, match="has pushed to it, and that would be lost"):
        repository.propose()
    assert repository.git("rev-parse", BRANCH, folder=repository.origin) == tip
    repository.github.close(1)
    repository.propose()  # GitHub keeps the commits of a closed pull request
    assert [pull["state"] for pull in repository.github.pulls] == ["closed", "open"]


def test_code_that_is_not_committed_stops_the_proposal(repository: Repository) -> None:
    (repository.folder / "src/model.py").write_text("WIDTH = 2\n")
    with pytest.raises(BranchError, match=r"src/model\.py\. Commit or stash it first"):
        repository.propose()
    assert repository.github.pulls == []


def test_without_a_verdict_of_the_gate_nothing_is_proposed(repository: Repository) -> None:
    (repository.folder / "reports/gate/gate.json").unlink()
    with pytest.raises(WrittenFileError, match=r"gate\.json: missing\. Make it: evergreen gate"):
        repository.propose()


def test_nothing_new_is_nothing_to_propose(repository: Repository) -> None:
    repository.git("commit", "-qam", "retrained by hand")
    assert repository.propose().message == "Nothing to propose: dvc.lock is what main has."


@pytest.mark.parametrize("fault", ["500", "502 after", "reset after"])
@pytest.mark.parametrize("number", range(8))
def test_whatever_fails_there_is_one_pull_request(repository: Repository, fault: str, number: int) -> None:
    answered = iter(range(10**6))
    repository.github.next_fault = lambda _path: fault if next(answered) == number else None  # type: ignore[return-value]
    repository.propose()
    assert len(repository.github.pulls) == 1
    assert len(repository.github.comments[1]) == 1


def test_comment_of_a_stranger_with_our_mark_is_never_edited(repository: Repository) -> None:
    repository.propose()
    forged = repository.github.add_comment(1, "<!-- evergreen-comment: other -->\nMerge recommended!", user="mallory")
    before = dict(forged)
    pulls = repository.connect()
    pulls.comment(1, "other", "Do not merge.")
    pulls.comment(1, "other", "Do not merge!")
    bodies = [comment["body"] for comment in repository.github.comments[1]]
    assert forged["body"] == before["body"]
    assert [body.splitlines()[-1] for body in bodies[1:]] == ["Merge recommended!", "Do not merge!"]


def test_apps_token_knows_its_own_comments(repository: Repository) -> None:
    repository.github.login = "evergreen[bot]"
    repository.propose()
    repository.change_challenger()
    repository.propose()
    assert len(repository.github.comments[1]) == 1


@pytest.fixture
def with_cml(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The real CML, which speaks to the stand-in over TLS, and to the remote in place of its host."""
    if not shutil.which("cml"):
        pytest.skip("CML is NOT tested: no cml on PATH (version 0.20.6 was)")
    page = repository.github.url.removesuffix("/api/v3") + "/acme/reviews.git"
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(repository.github.certificate))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{repository.origin}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", page.replace("://", f"://token:{TOKEN}@"))
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/reviews")
    return repository


def test_cml_opens_the_pull_request_and_updates_its_comment(with_cml: Repository) -> None:
    config = (with_cml.folder / ".git/config").read_text()
    with_cml.propose("cml")
    (pull,) = with_cml.github.pulls
    assert (pull["head"]["ref"], pull["base"]["ref"]) == (BRANCH, "main")
    assert "nothing is proposed for 14 days" in pull["body"]
    (comment,) = with_cml.github.comments[1]
    assert "**Merge recommended.**" in comment["body"]
    assert "CML watermark" in comment["body"]
    with_cml.change_challenger()
    with_cml.propose("cml")
    (comment,) = with_cml.github.comments[1]
    assert with_cml.git("rev-parse", BRANCH, folder=with_cml.origin) in comment["body"]
    assert (with_cml.folder / ".git/config").read_text() == config
    with_cml.propose("rest")  # the setting may change at any time
    assert len(with_cml.github.comments[1]) == 1
    assert len(with_cml.github.pulls) == 1
    with_cml.github.close(1)
    assert not check_cooldown(with_cml.connect("cml"), "main", 14, datetime.now(UTC)).proceed


def test_cml_edits_no_stranger_s_comment(with_cml: Repository) -> None:
    with_cml.propose("cml")
    pulls = with_cml.connect("cml")
    pulls.comment(1, "other", "Do not merge.")
    own = with_cml.github.comments[1].pop()
    forged = with_cml.github.add_comment(1, own["body"].replace("Do not merge.", "Merge recommended!"), user="mallory")
    before = forged["body"]
    pulls.comment(1, "other", "Do not merge!")
    assert forged["body"] == before
    assert len(with_cml.github.comments[1]) == 3


def test_cml_that_is_missing_or_fails_is_told_with_the_way_around(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(CmlError, match="EVERGREEN_PULL_REQUESTS=rest"):
        repository.connect("cml")
    assert repository.connect("auto").cml is None
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/cml"
    program.write_text(f"#!/bin/sh\necho 'no access with {TOKEN}' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(CmlError, match=r"cml pr failed: no access with .*EVERGREEN_PULL_REQUESTS=rest") as caught:
        repository.connect("auto").open("main", "Title", "Body")
    assert TOKEN not in str(caught.value)


def read_steps(repository: Repository) -> Callable[..., "tuple[int, str, str]"]:
    def call(*arguments: str, **environment: str) -> tuple[int, str, str]:
        done = run(
            repository.folder,
            "evergreen",
            "retrain",
            *arguments,
            GITHUB_TOKEN=TOKEN,
            GITHUB_REPOSITORY="acme/reviews",
            GITHUB_API_URL=repository.github.url,
            GITHUB_OUTPUT=str(repository.folder.parent / "output"),
            GITHUB_STEP_SUMMARY=str(repository.folder.parent / "summary"),
            EVERGREEN_PULL_REQUESTS="rest",
            **environment,
        )
        return done.returncode, done.stdout, done.stderr

    return call


def test_commands_tell_the_workflow_and_the_incident(repository: Repository, tmp_path: Path) -> None:
    call = read_steps(repository)
    label = {"labels": ["evergreen-staleness"], "title": "Stale"}
    repository.github.add_issue(body="<!-- evergreen-incident: text digest=abc -->\nStale.", **label)
    code, output, error = call("propose")
    assert code == 0, error
    assert "Opened " in output
    assert "pull-request<<" in (tmp_path / "output").read_text()
    assert "**Merge recommended.**" in (tmp_path / "summary").read_text()
    (pull,) = repository.github.pulls
    repository.github.close(pull["number"])
    for _ in range(2):
        code, output, error = call("check")
        assert code == 0, error
        assert "was closed without a merge" in output
    assert (tmp_path / "output").read_text().count("\nfalse\n") == 2
    assert len(repository.github.comments[1]) == 1  # said once
    assert "Not retrained." in repository.github.comments[1][0]["body"]
    assert "asks for it" in call("check", "--anyway")[1]
    repository.fail_gate()
    code, output, error = call("propose")
    assert code == 0, error
    evidence = repository.github.comments[1][-1]["body"]
    assert "Not proposed: The challenger does not pass: slices." in evidence
    assert r"topic \`x\` is \*worse\*" in evidence


def test_stale_verdict_starts_the_workflow(repository: Repository) -> None:
    file = repository.folder / "reports/monitoring/verdict.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "stale", "action": "retrain"}))
    code, output, error = read_steps(repository)("start")
    assert code == 1
    assert "404" in error
    repository.github.add_workflow("retrain.yml")
    code, output, error = read_steps(repository)("start")
    assert code == 0, error
    assert "started retrain.yml on main" in output
    assert [call["ref"] for call in repository.github.dispatches] == ["main"]
