"""The workflows: what is forbidden in them, that act plans their jobs, and that the helper which runs them works."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from act import ACTIONS, ROOT, WORKFLOWS, read_steps, read_yaml, run_act

FILES = pytest.mark.parametrize(
    "file", [*WORKFLOWS, *ACTIONS], ids=lambda file: file.relative_to(ROOT / ".github").as_posix()
)
EACH = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
PINNED = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
JOBS = {
    "ci": {"checks", "pipeline", "report"},
    "monitor": {"monitor"},
    "retrain": {"check", "launch", "retrain"},
    "release": {"plan", "build", "deploy", "finish", "alert"},
}
UNASKED: dict[str, set[str]] = {"ci": set(), "monitor": set(), "retrain": {"launch"}, "release": {"deploy"}}
"""Jobs for which nobody has set a cloud or a target."""
EVENTS = {"ci": "pull_request", "monitor": "schedule", "retrain": "workflow_dispatch", "release": "push"}


@FILES
def test_actions_of_others_are_pinned_by_commit_and_name_their_version(file: Path) -> None:
    uses = [line.strip().removeprefix("- ") for line in file.read_text().splitlines() if "uses:" in line]
    assert uses
    assert [line for line in uses if not line.startswith("uses: ./") and not PINNED.match(line)] == []


@FILES
def test_a_step_is_one_line_without_expressions(file: Path) -> None:
    scripts = [step["run"] for step in read_steps(file) if "run" in step]
    assert scripts
    assert [script for script in scripts if "\n" in script.strip() or "${{" in script] == []


@EACH
def test_permissions_are_those_of_each_job_and_each_run_is_bounded(workflow: Path) -> None:
    content = read_yaml(workflow)
    assert content["permissions"] == {}
    assert content["concurrency"]["group"]
    assert "pull_request_target" not in content["on"]
    for job in content["jobs"].values():
        assert job["permissions"]["contents"] == "read" or "contents: write #" in workflow.read_text()
        assert 0 < job["timeout-minutes"] < 360


@EACH
def test_no_checkout_leaves_its_token_behind(workflow: Path) -> None:
    checkouts = [step for step in read_steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_nothing_in_a_release_comes_from_a_cache() -> None:
    setups = [step for step in read_steps(ROOT / ".github/workflows/release.yml") if "setup" in step.get("uses", "")]
    assert setups
    assert all(step["with"]["cache"] == "" for step in setups)


def test_retraining_restores_what_the_monitor_saves() -> None:
    paths = {
        step["with"]["path"]
        for name in ("monitor", "retrain")
        for step in read_steps(ROOT / f".github/workflows/{name}.yml")
        if "cache/" in step.get("uses", "")
    }
    assert len(paths) == 1  # a cache is found by its list of paths


def test_dependabot_covers_every_kind_of_pin() -> None:
    updates = read_yaml(ROOT / ".github/dependabot.yml")["updates"]
    folders = {update["package-ecosystem"]: update.get("directories", [update.get("directory")]) for update in updates}
    assert folders == {
        "github-actions": ["/", "/.github/actions/setup"],
        "pip": ["/"],
        "npm": ["/tests/workflows"],
        "docker": ["/docker"],
    }


def test_the_lock_of_the_linter_names_hashes_and_no_server() -> None:
    packages = read_yaml(ROOT / "tests/workflows/package-lock.json")["packages"]
    assert all("integrity" in package and "resolved" not in package for path, package in packages.items() if path)


def _copy_empty(workflow: Path, repository: Path) -> Path:
    """Copy a workflow into a repository of its own, with steps that do nothing but say that the next job is to run."""
    _make_repository(repository)
    setup = repository / ".github/actions/setup/action.yml"
    setup.parent.mkdir(parents=True)
    inputs = "{lock: {description: a}, cml: {description: b}, cache: {description: c}}"
    setup.write_text(f"name: a\ninputs: {inputs}\nruns: {{using: composite, steps: [{{run: 'true', shell: bash}}]}}\n")
    copy = repository / workflow.name
    copy.write_text(re.sub(r"(?m)^( +run: ).*$", r'\1echo proceed=true >> "$GITHUB_OUTPUT"', workflow.read_text()))
    return copy


def _make_repository(folder: Path) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), *author, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)


@pytest.mark.slow
@EACH
def test_act_runs_every_job_that_has_something_to_do(workflow: Path, tmp_path: Path) -> None:
    name = workflow.stem
    payload: dict[str, Any] = {
        "pull_request": {"number": 1, "head": {"repo": {"full_name": "a/b"}}, "user": {"login": "c"}},
        "ref": "refs/heads/main",
    }
    result = run_act(tmp_path, EVENTS[name], _copy_empty(workflow, tmp_path), payload=payload)
    assert result.returncode == 0, result.output
    jobs = read_yaml(workflow)["jobs"]
    assert set(jobs) == JOBS[name]
    ran = {
        key
        for key, job in jobs.items()
        if re.search(rf"/{re.escape(job['name'])} *\] 🏁  Job succeeded", result.output)
    }
    assert ran == JOBS[name] - UNASKED[name]


SMALL = """
name: Small
on:
  workflow_dispatch:
    inputs: {who: {default: nobody}}
jobs:
  first:
    runs-on: ubuntu-latest
    outputs:
      said: ${{ steps.say.outputs.said }}
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
      - uses: actions/cache/restore@27d5ce7f107fe9357f9df03efb73ab90386fccae # v5.0.5
        with:
          path: "a\\nb"
          key: key-${{ github.run_id }}
      - id: say
        run: echo "said=$WHO $WHERE" | tee -a "$GITHUB_OUTPUT" made
        env:
          WHO: ${{ inputs.who }}
      - run: echo "# A heading" >> "$GITHUB_STEP_SUMMARY"
  second:
    needs: first
    if: vars.ASK != ''
    runs-on: ubuntu-latest
    steps:
      - run: echo "heard $HEARD, asked of $GITHUB_API_URL"; test "$TOKEN" = hidden-word
        env:
          HEARD: ${{ needs.first.outputs.said }}
          TOKEN: ${{ secrets.TOKEN }}
"""


@pytest.mark.slow
def test_a_job_runs_here_with_inputs_outputs_secrets_and_a_summary(tmp_path: Path) -> None:
    _make_repository(tmp_path)
    workflow = tmp_path / "small.yml"
    workflow.write_text(SMALL)
    result = run_act(
        tmp_path,
        "workflow_dispatch",
        workflow,
        env={"WHERE": "here", "GITHUB_API_URL": "https://127.0.0.1:1"},
        secrets={"TOKEN": "hidden-word"},
        inputs={"who": "somebody"},
        variables={"ASK": "yes"},
    )
    assert result.returncode == 0, result.output
    assert "heard somebody here, asked of https://127.0.0.1:1" in result.output
    assert "Summary - # A heading" in result.output
    assert "hidden-word" not in result.output
    assert (tmp_path / "made").read_text() == "said=somebody here\n"
    assert ("actions/cache/restore", {"path": "a\nb", "key": "key-1"}) in result.calls


@pytest.mark.slow
def test_dvc_lock_is_checked_without_the_data(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(tmp_path / "clone")], check=True)
    clone = tmp_path / "clone"
    shutil.copy(ROOT / ".ci/pipeline", clone / ".ci/pipeline")

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, ".ci/pipeline"], cwd=clone, capture_output=True, text=True, check=False)

    fits = check()
    assert fits.returncode == 0, fits.stderr
    with (clone / "src/evergreen/text/splits.py").open("a") as module:
        module.write("\n# changed\n")
    differs = check()
    assert differs.returncode == 1
    assert "train: src/evergreen/text/splits.py modified" in differs.stderr
