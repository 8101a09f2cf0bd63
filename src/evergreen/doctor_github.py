"""`evergreen doctor --github`: whether the workflows can do their work in this repository, and what is missing."""

from collections.abc import Iterator
from typing import Any

from evergreen.doctor import CheckResult
from evergreen.github import GitHubError, RetryPolicy
from evergreen.github_bootstrap import ENVIRONMENT, NAMES
from evergreen.github_settings import RepositorySettings
from evergreen.settings import GitHubSettings

WORKFLOWS = ("ci.yml", "monitor.yml", "retrain.yml", "release.yml")
_NEEDS = "contents, pull-requests and issues: write"
_GUIDE = "docs/deployment.md, From a fork to the first pull request"
_WITHOUT_OWN = (
    "with the default GITHUB_TOKEN the checks of a retraining pull request wait for somebody's approval, and do not "
    "start on older servers"
)
_USUAL_SECRETS = ("DATABASE_URL", "AWS_ACCESS_KEY_ID", "EVERGREEN_ALERT_URLS")


def check_github(settings: GitHubSettings, policy: RetryPolicy | None = None) -> list[CheckResult]:
    """Run the checks; what the token may not see is `unchecked`.

    Args:
        settings: the repository and a token of who asks.
        policy: how long to keep trying.
    """
    if not settings.has_github:
        remedy = "Set GITHUB_REPOSITORY (OWNER/NAME) and GITHUB_TOKEN (as gh auth token prints one)."
        return [CheckResult("github", "problem", "no repository or no token", remedy, required=True)]
    reader = RepositorySettings.connect(settings, policy or RetryPolicy(), _NEEDS)
    try:
        repository = reader.read("")
    except GitHubError as error:
        return [CheckResult("github", "problem", settings.github_repository, str(error), required=True)]
    checks = [_check_repository(repository), _check_rights(repository)]
    names = reader.list_names("actions/secrets", "secrets"), reader.list_names("actions/variables", "variables")
    checks += [_check_token(*names), _check_permissions(reader), *_check_workflows(reader)]
    checks += [_check_secrets(names[0]), _check_environment(reader), _check_protection(reader, repository)]
    return checks


def _check_repository(repository: dict[str, Any]) -> CheckResult:
    kind = "private" if repository["private"] else "public"
    detail = f"{repository['full_name']}, {kind}, default branch {repository['default_branch']}"
    if not repository.get("has_issues", True):
        return CheckResult("github", "problem", f"{detail}; issues are disabled", "Enable issues: alerts are issues.")
    if repository["default_branch"] != "main":
        remedy = "The workflows run on main: rename the branch, or change them and give --base."
        return CheckResult("github", "problem", detail, remedy)
    return CheckResult("github", "ok", detail, required=True)


def _check_rights(repository: dict[str, Any]) -> CheckResult:
    if (repository.get("permissions") or {}).get("push"):
        return CheckResult("your token", "ok", "may push")
    return CheckResult("your token", "problem", "may not push", f"Give it {_NEEDS} to propose with it.")


def _check_token(secrets: set[str] | None, variables: set[str] | None) -> CheckResult:
    name = "token of pull requests"
    if secrets is None:
        remedy = f"Ask with an administrator's token: {_WITHOUT_OWN}."
        return CheckResult(name, "unchecked", "the repository's secrets can't be listed", remedy)
    if "EVERGREEN_APP_KEY" in secrets and "EVERGREEN_APP_ID" in (variables or secrets):
        return CheckResult(name, "ok", "an app's: EVERGREEN_APP_ID and EVERGREEN_APP_KEY")
    if "EVERGREEN_TOKEN" in secrets:
        return CheckResult(name, "ok", "a personal one: EVERGREEN_TOKEN")
    remedy = f"Set the secret EVERGREEN_TOKEN, or an app ({_GUIDE}): {_WITHOUT_OWN}."
    return CheckResult(name, "problem", "the default one", remedy)


def _check_permissions(reader: RepositorySettings) -> CheckResult:
    name = "actions may open pull requests"
    workflow_rights, problem = reader.try_to_read("actions/permissions/workflow")
    if problem:
        return CheckResult(name, "unchecked", "the setting can't be seen", "Ask with an administrator's token.")
    if workflow_rights["can_approve_pull_request_reviews"]:
        return CheckResult(name, "ok", "yes")
    remedy = "Settings, Actions, General: allow GitHub Actions to create pull requests; an app's token needs it not."
    return CheckResult(name, "missing", "no", remedy)


def _check_workflows(reader: RepositorySettings) -> Iterator[CheckResult]:
    listed, problem = reader.try_to_read("actions/workflows?per_page=100")
    if problem:
        yield CheckResult("workflows", "unchecked", "they can't be listed", "Give the token `actions: read`.")
        return
    states = {row["path"].rpartition("/")[2]: row["state"] for row in listed["workflows"]}
    for file in WORKFLOWS:
        state = states.get(file)
        if state == "active":
            yield CheckResult(f"workflow {file}", "ok", "active")
        elif state is None:
            yield CheckResult(
                f"workflow {file}", "problem", "unknown to GitHub", "Enable Actions, and push it to main."
            )
        else:
            why = " (after 60 days without a commit)" if state == "disabled_inactivity" else ""
            yield CheckResult(f"workflow {file}", "problem", f"{state}{why}", f"gh workflow enable {file}")


def _check_secrets(secrets: set[str] | None) -> CheckResult:
    if secrets is None:
        return CheckResult("secrets", "unchecked", "they can't be listed", "Ask with an administrator's token.")
    absent = set(_USUAL_SECRETS) - secrets
    missing = [f"{name.name} ({name.purpose})" for name in NAMES if name.name in absent]
    if missing:
        return CheckResult("secrets", "missing", f"none of these: {'; '.join(missing)}", "gh secret set NAME")
    return CheckResult("secrets", "ok", ", ".join(_USUAL_SECRETS))


def _check_environment(reader: RepositorySettings) -> CheckResult:
    name = f"environment {ENVIRONMENT}"
    environment, problem = reader.try_to_read(f"environments/{ENVIRONMENT}")
    if problem == "404":
        return CheckResult(
            name, "missing", "none", f"Make it, with a reviewer, to be asked before a deployment ({_GUIDE})."
        )
    if problem:
        return CheckResult(name, "unchecked", "it can't be seen", "Give the token `actions: read`.")
    rules = sorted({rule["type"] for rule in environment.get("protection_rules") or []})
    if rules:
        return CheckResult(name, "ok", ", ".join(rules))
    return CheckResult(name, "missing", "no rule: a merge deploys at once", "Add a required reviewer, if you want one.")


def _check_protection(reader: RepositorySettings, repository: dict[str, Any]) -> CheckResult:
    branch = repository["default_branch"]
    name = f"protection of {branch}"
    is_protected = reader.is_protected(branch)
    if is_protected is None:
        return CheckResult(name, "unchecked", "it can't be seen", "Ask with an administrator's token.")
    if is_protected:
        return CheckResult(name, "ok", "protected")
    remedy = "Merging is what releases. Add a ruleset: evergreen github bootstrap --apply"
    return CheckResult(name, "problem", "anybody who may push can release without a review", remedy)
