"""`evergreen doctor --github`: what keeps the workflows from working is named, with what to do."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from github_server import TOKEN, GitHubServer, serve_github
from typer.testing import CliRunner

from evergreen.cli import app
from evergreen.doctor import CheckResult
from evergreen.doctor_github import WORKFLOWS, check_github
from evergreen.github import RetryPolicy
from evergreen.settings import GitHubSettings

POLICY = RetryPolicy(tries=2, first_wait=0.0, longest_wait=1.0, deadline=20.0, seconds_between_writes=0.0)


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubServer]:
    with serve_github("/api/v3", tls=True) as server:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.certificate))
        for name, value in {"TOKEN": TOKEN, "REPOSITORY": "acme/reviews", "API_URL": server.url}.items():
            monkeypatch.setenv(f"GITHUB_{name}", value)
        yield server


def prepare(github: GitHubServer) -> None:
    """A repository that has all that docs/deployment.md asks for."""
    for file in WORKFLOWS:
        github.add_workflow(file)
    github.secrets = ["EVERGREEN_TOKEN", "DATABASE_URL", "AWS_ACCESS_KEY_ID", "EVERGREEN_ALERT_URLS"]
    github.rules = ["pull_request", "required_status_checks"]


def check(**changes: str) -> dict[str, CheckResult]:
    return {result.name: result for result in check_github(GitHubSettings.load(**changes), POLICY)}


def test_prepared_repository_has_no_problem(github: GitHubServer) -> None:
    prepare(github)
    checks = check()
    assert {name for name, result in checks.items() if result.status == "problem"} == set()
    assert checks["token of pull requests"].detail == "a personal one: EVERGREEN_TOKEN"


def test_new_fork_is_told_what_is_missing(github: GitHubServer) -> None:
    checks = check()
    assert "checks of a retraining pull request wait for" in checks["token of pull requests"].remedy
    assert {checks[f"workflow {file}"].status for file in WORKFLOWS} == {"problem"}
    assert "anybody who may push can release" in checks["protection of main"].detail
    assert checks["environment production"].status == "missing"
    assert all(result.remedy for result in checks.values() if result.status != "ok")


def test_app_and_disabled_schedule(github: GitHubServer) -> None:
    prepare(github)
    github.environments = ["production"]
    github.secrets = ["EVERGREEN_APP_KEY"]
    github.variables = {"EVERGREEN_APP_ID": "1"}
    github.workflows[1]["state"] = "disabled_inactivity"
    checks = check()
    assert checks["token of pull requests"].detail.startswith("an app's")
    assert checks["workflow monitor.yml"].detail == "disabled_inactivity (after 60 days without a commit)"
    assert checks["workflow monitor.yml"].remedy == "gh workflow enable monitor.yml"
    assert "DATABASE_URL" in checks["secrets"].detail
    assert checks["environment production"].detail == "no rule: a merge deploys at once"


def test_token_that_sees_little_leaves_checks_open(github: GitHubServer) -> None:
    prepare(github)
    seldom = ("/actions/secrets", "/actions/variables", "/actions/permissions", "/environments", "/rules")
    github.next_fault = lambda path: "403" if any(part in path for part in seldom) else None  # type: ignore[return-value]
    checks = check()
    assert checks["token of pull requests"].status == "unchecked"
    assert checks["protection of main"].status == "unchecked"
    assert checks["workflow ci.yml"].status == "ok"


def test_command_exits_with_1_where_github_can_not_be_asked(github: GitHubServer, clean_environment: None) -> None:
    prepare(github)
    environment = {
        "GITHUB_TOKEN": "wrong",
        "GITHUB_REPOSITORY": "acme/reviews",
        "GITHUB_API_URL": github.url,
        "REQUESTS_CA_BUNDLE": str(github.certificate),
    }
    result = CliRunner().invoke(app, ["doctor", "--github", "--json"], env=environment)
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout.split("error:")[0])["checks"]
    assert "Renew GITHUB_TOKEN" in found["remedy"]
    none = CliRunner().invoke(app, ["doctor", "--github"], env={"GITHUB_TOKEN": ""})
    assert none.exit_code == 1
    assert "GITHUB_REPOSITORY" in none.output
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(("rules", "status"), [(["pull_request"], "ok"), (["deletion"], "problem"), ([], "problem")])
def test_only_a_ruleset_that_demands_pull_requests_protects(
    github: GitHubServer, rules: list[str], status: str
) -> None:
    github.rules = rules
    assert check()["protection of main"].status == status


def test_branch_protection_counts_beside_a_ruleset_of_another_kind(github: GitHubServer) -> None:
    github.rules, github.protection = ["deletion"], {}
    assert check()["protection of main"].status == "ok"
