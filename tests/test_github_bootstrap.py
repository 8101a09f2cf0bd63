"""`evergreen github bootstrap`: a bare repository becomes what doctor asks for, and only when asked to."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from github_server import TOKEN, GitHubServer, serve_github
from ruamel.yaml import YAML
from typer.testing import CliRunner

from evergreen.cli import app
from evergreen.doctor_github import check_github
from evergreen.github_bootstrap import NAMES, REQUIRED_CHECKS
from evergreen.settings import GitHubSettings

WORKFLOWS = Path(__file__).parents[1] / ".github/workflows"


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubServer]:
    with serve_github("/api/v3", tls=True) as server:
        server.has_issues = False
        server.workflow_permissions["can_approve_pull_request_reviews"] = False
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.certificate))
        for name, value in {"TOKEN": TOKEN, "REPOSITORY": "acme/reviews", "API_URL": server.url}.items():
            monkeypatch.setenv(f"GITHUB_{name}", value)
        yield server


def bootstrap(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["github", "bootstrap", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_plan_changes_nothing(github: GitHubServer) -> None:
    github.secrets = ["DATABASE_URL"]
    output = bootstrap()
    assert {request.split()[0] for request in github.requests} == {"GET"}
    assert "+ protection of main: a pull request is the only way to production" in output
    assert "To make the 6 changes marked +" in output
    assert "DATABASE_URL (set)" in output
    assert "gh secret set DEPLOY_SSH_KEY --env production" in output


def test_applied_twice_is_as_once_and_doctor_is_content(github: GitHubServer) -> None:
    assert bootstrap("--apply").count("done: ") == 6
    assert github.has_issues
    assert set(github.labels) == {"evergreen-staleness", "evergreen-failure"}
    assert github.environments == ["production"]
    (ruleset,) = github.rulesets
    assert ruleset["conditions"]["ref_name"]["include"] == ["~DEFAULT_BRANCH"]
    n_requests = len(github.requests)
    again = bootstrap("--apply")
    assert "+ " not in again
    assert {request.split()[0] for request in github.requests[n_requests:]} == {"GET"}
    checks = {check.name: check for check in check_github(GitHubSettings.load())}
    for name in ("github", "actions may open pull requests", "protection of main"):
        assert checks[name].status == "ok", checks[name]


def test_protected_branch_is_left_as_it_is(github: GitHubServer) -> None:
    github.protection = {}
    assert "- protection of main" in bootstrap("--apply")
    assert github.rulesets == []


def test_refused_token_is_told_what_it_needs(github: GitHubServer) -> None:
    github.next_fault = lambda path: "403" if path.endswith("/labels") else None
    result = CliRunner().invoke(app, ["github", "bootstrap", "--apply"])
    assert result.exit_code == 1
    assert "administration, environments and issues: write" in result.output


def test_every_secret_and_variable_of_the_workflows_is_explained() -> None:
    texts = "".join(path.read_text() for path in WORKFLOWS.glob("*.yml"))
    used = {(match[2], match[1] == "secrets") for match in re.finditer(r"\b(secrets|vars)\.([A-Z_]+)", texts)}
    assert {(name.name, name.is_secret) for name in NAMES} == used


def test_required_checks_are_jobs_of_ci() -> None:
    jobs = YAML(typ="safe").load(WORKFLOWS / "ci.yml")["jobs"].values()
    assert set(REQUIRED_CHECKS) <= {job["name"] for job in jobs}
