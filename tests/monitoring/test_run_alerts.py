"""What is told beside the verdict: what a retraining tried, and workflows that fail and work again."""

from pathlib import Path
from typing import Any

import pytest
from github_server import GitHubServer
from hypothesis import given
from hypothesis import strategies as st
from test_alerts import (
    POLICY,
    STALE,
    get_titles,
    github,  # noqa: F401 - a fixture
    hook,
    make_settings,
)
from typer.testing import CliRunner

from evergreen.cli import app
from evergreen.markdown import clean_line, escape_markdown
from evergreen.monitoring.alert_text import Links, render_note
from evergreen.monitoring.alerts import AlertError, Alerts
from evergreen.monitoring.incidents import Subject

SUBJECT = Subject("workflow-monitor", "evergreen-failure", "A workflow of Evergreen failed")


def make_alerts(server: GitHubServer, folder: Path, subject: Subject | None = None, **fields: Any) -> Alerts:
    return Alerts(make_settings(server, hook(server), **fields), folder, POLICY, subject)


def test_evidence_is_added_to_the_open_incident(github: GitHubServer, tmp_path: Path) -> None:  # noqa: F811
    text = "Not proposed: slices.\n\n- slices: topic apple is worse"
    assert not make_alerts(github, tmp_path).add_evidence(text).was_open
    assert github.issues == []
    make_alerts(github, tmp_path).send(STALE)
    body = github.issues[0]["body"]
    for _ in range(2):
        result = make_alerts(github, tmp_path).add_evidence(text)
    assert result.issue == github.issues[0]["html_url"]
    (comment,) = github.comments[1]
    assert text in comment["body"]
    assert get_titles(github)[1:] == ["Evergreen: Not proposed: slices."]  # told once
    make_alerts(github, tmp_path).send(STALE)  # the incident goes on as if nothing had been added
    assert github.issues[0]["body"] == body
    assert len(github.comments[1]) == 1
    assert len(get_titles(github)) == 2


@given(st.text(max_size=60))
def test_mail_shows_user_text_without_escapes(text: str) -> None:
    note = render_note(f"Not proposed.\n- slices: {escape_markdown(text)} is worse", Links())
    shown = note.text.splitlines()[1].replace("\u2060", "")
    assert shown == f"- slices: {clean_line(text, 1000)} is worse".replace("\u2060", "")
    assert "<" not in note.html.split("- slices: ")[1].split(" is worse")[0]


def test_workflow_that_fails_has_one_issue_until_it_works_again(github: GitHubServer, tmp_path: Path) -> None:  # noqa: F811
    make_alerts(github, tmp_path).send(STALE)
    assert not make_alerts(github, tmp_path, SUBJECT).report_run("monitor", has_failed=False).was_open
    for run in ("21", "22"):
        alerts = make_alerts(github, tmp_path, SUBJECT, GITHUB_RUN_ID=run)
        alerts.report_run("monitor", has_failed=True, detail="build: success, deploy: failure.")
    stale, failed = github.open_issues
    assert failed["title"] == "Evergreen: The workflow monitor failed"
    assert "/actions/runs/22" in failed["body"]
    assert "build: success, deploy: failure." in failed["body"]
    assert ["/actions/runs/22" in comment["body"] for comment in github.comments[2]] == [True]
    assert get_titles(github)[1:] == ["Evergreen: The workflow monitor failed"]
    make_alerts(github, tmp_path, SUBJECT).report_run("monitor", has_failed=False)
    assert github.open_issues == [stale]
    assert get_titles(github)[-1] == "Evergreen: The workflow monitor works again."
    make_alerts(github, tmp_path, SUBJECT).report_run("monitor", has_failed=True)
    assert len(github.open_issues) == 2  # a new one


def test_failure_is_told_by_mail_while_github_is_away(github: GitHubServer, tmp_path: Path) -> None:  # noqa: F811
    def fail(path: str) -> Any:
        return None if path.startswith("/hook") else "500"

    github.next_fault = fail
    with pytest.raises(AlertError, match="500"):
        make_alerts(github, tmp_path, SUBJECT).report_run("monitor", has_failed=True).raise_problems()
    assert get_titles(github) == ["Evergreen: The workflow monitor failed"]
    github.next_fault = lambda _path: None
    make_alerts(github, tmp_path, SUBJECT).report_run("monitor", has_failed=False).raise_problems()
    assert get_titles(github)[1:] == ["Evergreen: The workflow monitor works again."]


def test_command(github: GitHubServer, tmp_path: Path) -> None:  # noqa: F811
    environment = {"EVERGREEN_STATE_DIR": str(tmp_path), "EVERGREEN_ALERT_URLS": hook(github)}

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["alert", "run", *arguments], env=environment)

    assert run("--workflow", "monitor", "--outcome", "failure").exit_code == 0
    assert "nothing to report" in run("--workflow", "monitor", "--outcome", "cancelled").output
    assert run("--workflow", "monitor", "--outcome", "success").exit_code == 0
    assert len(get_titles(github)) == 2
    assert run("--workflow", "a b", "--outcome", "success").exit_code == 2
    assert run("--workflow", "monitor", "--outcome", "perhaps").exit_code == 2
