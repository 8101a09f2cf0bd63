"""The stand-in for GitHub: what it answers is as GitHub describes it, and a call that is not is a failure."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from github import Auth, Github, GithubException
from github.Repository import Repository
from github_description import Description
from github_objects import ApiError
from github_server import TOKEN, Fault, GitHubServer, serve_github

COMMANDS = (
    "git init -q -b main work && cd work && git config user.name Ann && git config user.email ann@example.com"
    " && echo 1 > a && git add a && git commit -qm first && git switch -qc evergreen/retrain && echo 2 > b && git add b"
    " && git commit -qm second && cd .. && git clone -q --bare work bare.git"
)
needs_description = pytest.mark.skipif(
    Description.load() is None, reason="GitHub calls are NOT checked: run tests/fetch-openapi"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bare repository with main and a branch that is a commit ahead."""
    subprocess.run(["sh", "-c", COMMANDS], cwd=tmp_path, check=True)
    return tmp_path / "bare.git"


@pytest.fixture
def server(folder: Path) -> Iterator[GitHubServer]:
    with serve_github("/api/v3", tls=True, git_folder=folder) as running:
        yield running


@pytest.fixture
def repository(server: GitHubServer) -> Repository:
    return connect(server).get_repo("acme/reviews")


def connect(server: GitHubServer) -> Github:
    verify: Any = str(server.certificate) if server.certificate else True
    return Github(auth=Auth.Token(TOKEN), base_url=server.url, verify=verify, retry=None, seconds_between_writes=0)


def read_sha(folder: Path, ref: str) -> str:
    command = ["git", f"--git-dir={folder}", "rev-parse", ref]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def send(server: GitHubServer, method: str, path: str, **fields: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return requests.request(method, server.url + path, headers=headers, timeout=10, **fields)


@needs_description
def test_calls_are_checked() -> None:
    """Skipped where the description is missing, so that it is seen."""


def test_repository_and_user(server: GitHubServer, repository: Repository) -> None:
    assert (repository.default_branch, repository.private, repository.permissions.push) == ("main", False, True)
    assert server.url.startswith("https://localhost:")
    client = connect(server)
    assert client.get_user().login == server.login
    assert client.get_user("ann").login == "ann"
    assert client.get_rate_limit().rate.limit == 5000
    server.login = "evergreen[bot]"
    with pytest.raises(GithubException, match="not accessible by integration"):
        assert client.get_user().login


def test_issue_label_and_comment(server: GitHubServer, repository: Repository) -> None:
    repository.create_label("stale", "d93f0b", "A model is stale")
    issue = repository.create_issue("Stale", "It is.", labels=["stale"])
    issue.create_comment("first").edit("second")
    assert [comment.body for comment in issue.get_comments()] == ["second"]
    assert [found.number for found in repository.get_issues(labels=["stale"])] == [issue.number]
    issue.edit(state="closed", state_reason="not_planned")
    assert list(repository.get_issues()) == []
    assert server.issues[0]["closed_at"]
    assert server.comments[issue.number][0]["user"]["login"] == server.login


def test_pull_request(server: GitHubServer, repository: Repository, folder: Path) -> None:
    branch = "evergreen/retrain"
    pull = repository.create_pull("main", branch, title="Retrain", body="Better.")
    assert pull.head.sha == read_sha(folder, branch)
    with pytest.raises(GithubException, match="already exists for acme:evergreen/retrain"):
        repository.create_pull("main", branch, title="Again", body="")
    with pytest.raises(GithubException) as error:
        repository.create_pull("main", "missing", title="None", body="")
    assert (error.value.status, error.value.data["errors"][0]["field"]) == (422, "head")
    assert [found.number for found in repository.get_pulls("open", head=f"acme:{branch}", base="main")] == [1]
    assert [found.number for found in repository.get_commit(pull.head.sha).get_pulls()] == [1]
    pull.create_issue_comment("A report")
    assert [comment.body for comment in repository.get_issue(1).get_comments()] == ["A report"]
    pull.add_to_labels("retraining")
    pull.edit(title="Retrain the text model", state="closed")
    assert repository.get_pull(1).closed_at
    assert list(repository.get_pulls()) == []
    [closed] = repository.get_pulls("closed", sort="updated", direction="desc")
    assert (closed.title, closed.merged_at, closed.labels[0].name) == ("Retrain the text model", None, "retraining")


def test_open_pull_request_follows_its_branch_and_merging_moves_the_base(
    server: GitHubServer, repository: Repository, folder: Path
) -> None:
    number = server.add_pull("evergreen/retrain", title="Retrain", user="mallory")["number"]
    work = folder.parent / "work"
    push = "echo 3 > c && git add c && git commit -qm third && git push -q ../bare.git HEAD"
    subprocess.run(["sh", "-c", push], cwd=work, check=True)
    pull = repository.get_pull(number)
    assert (pull.head.sha, pull.user.login) == (read_sha(work / ".git", "HEAD"), "mallory")
    server.merge(number)
    pull = repository.get_pull(number)
    assert (pull.merged, pull.state, bool(pull.merged_at)) == (True, "closed", True)
    assert pull.merge_commit_sha == repository.get_branch("main").commit.sha == read_sha(folder, "main")
    assert read_sha(folder, "main^2") == pull.head.sha
    with pytest.raises(ApiError, match="not mergeable"):
        server.merge(number)
    repository.get_git_ref("heads/evergreen/retrain").delete()
    with pytest.raises(GithubException, match="404"):
        repository.get_git_ref("heads/evergreen/retrain")


def test_removed_branch_closes_its_pull_request(server: GitHubServer, repository: Repository) -> None:
    server.add_pull("evergreen/retrain", title="Retrain")
    repository.get_git_ref("heads/evergreen/retrain").delete()
    assert server.open_pulls == []


def test_merging_over_rest(server: GitHubServer, repository: Repository) -> None:
    server.add_pull("evergreen/retrain", title="Retrain")
    assert repository.get_pull(1).merge().merged
    assert server.open_pulls == []


def test_git_fetches_and_pushes(
    server: GitHubServer, repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_SSL_CAINFO", str(server.certificate))
    monkeypatch.setenv("GIT_TERMINAL_PROMPT", "0")
    url = repository.clone_url
    push = ["git", "-C", str(folder.parent / "work"), "push", "--quiet"]
    assert "acme/reviews.git" in url
    assert subprocess.run([*push, url, "HEAD:refs/heads/new"], check=False, capture_output=True).returncode
    commands = "head -c 3000000 /dev/urandom > large && git add large && git commit -qm large"
    subprocess.run(["sh", "-c", commands], cwd=folder.parent / "work", check=True)
    with_token = url.replace("https://", f"https://x-access-token:{TOKEN}@")
    subprocess.run([*push, with_token, "HEAD:refs/heads/new"], check=True)
    assert repository.get_branch("new").commit.commit.message == "large"
    subprocess.run(["git", "clone", "--quiet", "--branch=new", url, str(folder.parent / "clone")], check=True)
    assert read_sha(folder.parent / "clone/.git", "HEAD") == read_sha(folder, "new")
    server.private = True
    assert subprocess.run(["git", "ls-remote", url], check=False, capture_output=True).returncode
    assert b"heads/new" in subprocess.run(["git", "ls-remote", with_token], check=True, capture_output=True).stdout


def test_release(repository: Repository, folder: Path) -> None:
    repository.create_git_release("v1.0.0", "First", "Notes", target_commitish="main")
    assert read_sha(folder, "v1.0.0") == read_sha(folder, "main")
    draft = repository.create_git_release("v1.1.0", "Second", "Notes", draft=True)
    assert repository.get_latest_release().tag_name == "v1.0.0"
    draft.update_release("Second", "Better notes", draft=False)
    assert repository.get_release("v1.1.0").body == "Better notes"
    assert [release.tag_name for release in repository.get_releases()] == ["v1.1.0", "v1.0.0"]
    with pytest.raises(GithubException, match="already_exists"):
        repository.create_git_release("v1.0.0", "Again", "")


def test_dispatch(server: GitHubServer, repository: Repository) -> None:
    server.add_workflow("retrain.yml")
    server.add_workflow("watch.yml", "disabled_inactivity")
    assert [row.state for row in repository.get_workflows()] == ["active", "disabled_inactivity"]
    workflow = repository.get_workflow("retrain.yml")
    assert workflow.create_dispatch("main", {"reason": "stale"})
    assert server.dispatches == [{"ref": "main", "inputs": {"reason": "stale"}, "workflow": "retrain.yml"}]
    assert not workflow.create_dispatch("missing")
    assert not repository.get_workflow("watch.yml").create_dispatch("main")


def test_checks_and_statuses(server: GitHubServer, repository: Repository, folder: Path) -> None:
    sha = read_sha(folder, "main")
    run = repository.create_check_run("gate", sha, status="in_progress")
    run.edit(conclusion="success", output={"title": "Gate", "summary": "It passes."})
    [listed] = repository.get_commit(sha).get_check_runs()
    assert (listed.status, listed.conclusion, listed.output.summary) == ("completed", "success", "It passes.")
    repository.get_commit(sha).create_status("pending", context="gate")
    repository.get_commit(sha).create_status("failure", "https://example.com", "It fails", "gate")
    assert repository.get_commit(sha).get_combined_status().state == "failure"
    path = f"/repos/acme/reviews/commits/{sha}/statuses"  # PyGithub's way to ask for them is not described
    states = [row["state"] for row in send(server, "GET", path, verify=server.certificate).json()]
    assert states == ["failure", "pending"]


def test_settings(server: GitHubServer, repository: Repository) -> None:
    server.secrets, server.variables, server.environments = ["TOKEN"], {"REGION": "eu"}, ["release"]
    assert [secret.name for secret in repository.get_secrets()] == ["TOKEN"]
    assert [(variable.name, variable.value) for variable in repository.get_variables()] == [("REGION", "eu")]
    assert [environment.name for environment in repository.get_environments()] == ["release"]
    requester, base = repository.requester, "/repos/acme/reviews"
    _, permissions = requester.requestJsonAndCheck("GET", f"{base}/actions/permissions/workflow")
    assert permissions["can_approve_pull_request_reviews"]
    assert requester.requestJsonAndCheck("GET", f"{base}/actions/permissions")[1]["enabled"]
    with pytest.raises(GithubException, match="Branch not protected"):
        repository.get_branch("main").get_protection()
    server.protection = {"allow_force_pushes": {"enabled": False}, "required_linear_history": {"enabled": True}}
    assert repository.get_branch("main").protected
    assert repository.get_branch("main").get_protection().required_linear_history


def test_people_see_what_was_written(server: GitHubServer, repository: Repository, folder: Path) -> None:
    issue = repository.create_issue(
        "The text model is <stale>", "| a | b |\n| --- | --- |\n| 1 | **2** |", labels=["evergreen"]
    )
    issue.create_comment("Still stale.")
    sha = read_sha(folder, "evergreen/retrain")
    pull = repository.create_pull(
        title="Retrained", body=f"![b](/acme/reviews/blob/{sha}/b?raw=true)", head="evergreen/retrain", base="main"
    )
    pull.create_issue_comment("<details><summary>Rules</summary>\n\n- one\n\n</details>")
    repository.create_git_release("v1", "v1", "Built.")
    web = server.url.removesuffix("/api/v3") + "/acme/reviews"

    def read(path: str) -> str:
        response = requests.get(web + path, verify=str(server.certificate), timeout=10)
        response.raise_for_status()
        return response.text

    assert "The text model is &lt;stale&gt;" in read("/issues")
    page = read(f"/issues/{issue.number}")
    assert "<td><strong>2</strong></td>" in page
    assert "Still stale." in page
    page = read(f"/pull/{pull.number}")
    assert '<span class="state open">Open</span>' in page
    assert "second</div>" in page  # the commit
    assert '<span class="add">+2</span>' in page
    assert "<summary>Rules</summary>\n<ul>" in page
    assert read(f"/blob/{sha}/b?raw=true") == "2\n"
    server.merge(pull.number)
    assert '<span class="state merged">Merged</span>' in read("/pulls")
    assert read(f"/pull/{pull.number}").count("merged commit") == 1
    assert "Built." in read("/releases/tag/v1")
    assert "Merge pull request #2" in read("")
    for missing in ("/issues/99", "/blob/main/nothing", "/releases/tag/v2", "/settings"):
        assert requests.get(web + missing, verify=str(server.certificate), timeout=10).status_code == 404


def test_long_lists_have_pages() -> None:
    with serve_github() as server:
        for number in range(65):
            server.add_issue(title=str(number))
        repository = connect(server).get_repo("acme/reviews", lazy=True)
        assert len(list(repository.get_issues())) == 65
        assert sum("issues" in request for request in server.requests) == 3
        response = send(server, "GET", "/repos/acme/reviews/issues?per_page=20&page=2&direction=asc")
        assert [row["title"] for row in response.json()] == [str(number) for number in range(20, 40)]
        assert response.links.keys() == {"prev", "next", "last", "first"}
        assert (
            len(requests.get(response.links["last"]["url"], headers=response.request.headers, timeout=10).json()) == 5
        )


@needs_description
@pytest.mark.parametrize(
    ("method", "path", "fields", "problem"),
    [
        ("POST", "/issues", {"json": {"body": "no title"}}, '"title" is a required property'),
        ("POST", "/issues", {"json": {"title": "a", "labels": "stale"}}, "body labels"),
        ("POST", "/issues", {"json": {"title": "a", "lables": []}}, "body lables: not described"),
        ("POST", "/issues", {}, "body: is required"),
        ("POST", "/issues", {"data": "{"}, "JSON"),
        ("GET", "/issues?state=opened", {}, "query state: 'opened' does not fit"),
        ("GET", "/issues?label=stale", {}, "query label: not described"),
        ("GET", "/pulls/one", {}, "path pull_number: 'one' does not fit"),
        ("GET", "/nonsense", {}, "no such route"),
    ],
)
def test_wrong_call_is_a_violation(method: str, path: str, fields: dict[str, Any], problem: str) -> None:
    serving = serve_github()
    server = serving.__enter__()
    response = send(server, method, f"/repos/acme/reviews{path}", **fields)
    with pytest.raises(AssertionError, match=re.escape(problem)):
        serving.__exit__(None, None, None)
    assert response.status_code == 400
    assert problem in response.json()["message"]
    assert server.issues == []


@needs_description
def test_wrong_answer_is_a_violation() -> None:
    serving = serve_github()
    server = serving.__enter__()
    del server.add_issue(title="Stale")["user"]
    response = send(server, "GET", "/repos/acme/reviews/issues/1")
    with pytest.raises(AssertionError, match='"user" is a required property'):
        serving.__exit__(None, None, None)
    assert response.status_code == 500


@pytest.mark.parametrize(("fault", "status"), [("500", 500), ("401", 401), ("429", 429), ("limit", 403)])
def test_fault_keeps_the_request_from_being_done(fault: Fault, status: int, server: GitHubServer) -> None:
    server.next_fault = lambda _path: fault
    response = send(server, "POST", "/repos/acme/reviews/releases", json={"tag_name": "v1"}, verify=server.certificate)
    assert response.status_code == status
    assert server.releases == []


@pytest.mark.parametrize(("fault", "is_done"), [("reset", False), ("reset after", True)])
def test_connection_that_is_cut(fault: Fault, is_done: bool, server: GitHubServer) -> None:
    server.next_fault = lambda _path: fault
    with pytest.raises(requests.ConnectionError):
        send(server, "POST", "/repos/acme/reviews/pulls", json=PULL, verify=server.certificate)
    assert bool(server.pulls) == is_done


PULL = {"title": "Retrain", "head": "evergreen/retrain", "base": "main"}


def test_other_repositories_and_tokens_are_refused(server: GitHubServer) -> None:
    assert send(server, "GET", "/repos/acme/another", verify=server.certificate).status_code == 404
    server.token = "renewed"
    assert send(server, "GET", "/repos/acme/reviews", verify=server.certificate).status_code == 401
