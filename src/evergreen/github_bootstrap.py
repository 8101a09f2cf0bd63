"""`evergreen github bootstrap`: what the loop needs in a repository at GitHub, planned and, if asked for, done."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from evergreen.errors import EvergreenError
from evergreen.github import RetryPolicy
from evergreen.github_settings import RepositorySettings
from evergreen.monitoring.incidents import Subject
from evergreen.settings import GitHubSettings

REQUIRED_CHECKS = ("Linters and tests", "dvc.lock fits code, parameters and data")
"""Jobs of ci.yml."""
ENVIRONMENT = "production"
_RULESET = "evergreen"
_NEEDS = "administration, environments and issues: write"


@dataclass(frozen=True)
class Name:
    """A secret or a variable that only its owner can set.

    Attributes:
        purpose: what works with it.
        is_secret: else a variable.
        environment: where it belongs; empty: to the whole repository.
    """

    name: str
    purpose: str
    is_secret: bool = True
    environment: str = ""

    @property
    def command(self) -> str:
        """What sets it."""
        where = f" --env {self.environment}" if self.environment else ""
        return f"gh {'secret' if self.is_secret else 'variable'} set {self.name}{where}"


NAMES = (
    Name("DATABASE_URL", "the prediction log, for the monitor and for feedback"),
    Name("AWS_ACCESS_KEY_ID", "the DVC remote, where it is in S3"),
    Name("AWS_SECRET_ACCESS_KEY", "the DVC remote, where it is in S3"),
    Name("AWS_ENDPOINT_URL", "the DVC remote, where S3 is not Amazon's"),
    Name("EVERGREEN_TOKEN", "opens pull requests whose checks run: contents, pull requests and issues: write"),
    Name("EVERGREEN_APP_KEY", "an app's private key, in place of EVERGREEN_TOKEN"),
    Name("EVERGREEN_RUNNER_TOKEN", "registers a spot machine as a runner: administration: write"),
    Name("EVERGREEN_ALERT_URLS", "mails and chats"),
    Name("MLFLOW_TRACKING_URI", "runs, and the alias champion"),
    Name("DEPLOY_KUBECONFIG", "the deployment to Kubernetes", environment=ENVIRONMENT),
    Name("DEPLOY_SSH_KEY", "the deployment by compose on another machine", environment=ENVIRONMENT),
    Name("DEPLOY_KNOWN_HOSTS", "that machine's key", environment=ENVIRONMENT),
    Name("EVERGREEN_API_KEY", "asks the service after a deployment", environment=ENVIRONMENT),
    Name("EVERGREEN_APP_ID", "the app of EVERGREEN_APP_KEY", is_secret=False),
    Name("DEPLOY_TARGET", "compose or kubernetes; without it a release ends with the signed image", is_secret=False),
    Name("DEPLOY_HOST", "USER@HOST, for compose on another machine", is_secret=False),
    Name("SERVICE_URL", "where the service is asked after a deployment", is_secret=False),
    Name("EVERGREEN_CHECKPOINTS_URL", "s3://BUCKET/checkpoints, for runners that may be taken away", is_secret=False),
    Name("EVERGREEN_RUNNER", "label of a runner of yours, as where the log is behind a firewall", is_secret=False),
    Name("AWS_DEFAULT_REGION", "of the DVC remote; us-east-1 without it", is_secret=False),
    Name("EVERGREEN_CLOUD_REGION", "of spot machines", is_secret=False),
    Name("EVERGREEN_CLOUD_TYPE", "of spot machines", is_secret=False),
    Name("CLOUD_AWS_ACCESS_KEY_ID", "spot machines at AWS"),
    Name("CLOUD_AWS_SECRET_ACCESS_KEY", "spot machines at AWS"),
    Name("AZURE_CLIENT_ID", "spot machines at Azure"),
    Name("AZURE_CLIENT_SECRET", "spot machines at Azure"),
    Name("AZURE_SUBSCRIPTION_ID", "spot machines at Azure"),
    Name("AZURE_TENANT_ID", "spot machines at Azure"),
    Name("GOOGLE_APPLICATION_CREDENTIALS_DATA", "spot machines at Google"),
)
"""All that the workflows read."""


class BootstrapError(EvergreenError):
    """The repository can't be prepared; the message says what to set."""


@dataclass(frozen=True)
class Change:
    """Something to set up.

    Attributes:
        name: for people.
        why: what it is for.
        request: method, path and body; None where it is there already.
    """

    name: str
    why: str
    request: tuple[str, str, dict[str, Any]] | None = None


@dataclass(frozen=True)
class Plan:
    """What is there, what is to be done, and what only the owner can do.

    Attributes:
        changes: in the order in which they are done.
        present: names of secrets and variables that are set; None where they can't be listed.
    """

    changes: list[Change]
    present: set[str] | None = field(default=None)


class Bootstrap:
    """Plans and prepares one repository.

    Args:
        settings: the repository and an administrator's token.
        policy: how long to keep trying.

    Raises:
        BootstrapError: when the repository or the token is not set.
    """

    def __init__(self, settings: GitHubSettings, policy: RetryPolicy | None = None) -> None:
        if not settings.has_github:
            raise BootstrapError("no repository: set GITHUB_REPOSITORY (OWNER/NAME) and GITHUB_TOKEN (gh auth token).")
        self._repository = RepositorySettings.connect(settings, policy or RetryPolicy(), _NEEDS)

    def plan(self) -> Plan:
        """Compare the repository with what the loop needs; changes nothing.

        Raises:
            GitHubError: when there is no such repository, or the token may not see it.
        """
        repository = self._repository.read("")
        changes = [*self._plan_issues(repository), *self._plan_labels(), self._plan_pull_requests()]
        changes += [self._plan_protection(repository["default_branch"]), self._plan_environment()]
        lists = [("actions/secrets", "secrets"), ("actions/variables", "variables")]
        lists += [(f"environments/{ENVIRONMENT}/{key}", key) for key in ("secrets", "variables")]
        names = [self._repository.list_names(path, key) for path, key in lists]
        present = None if names[0] is None else set().union(*filter(None, names))
        return Plan(changes, present)

    def apply(self, plan: Plan) -> Iterator[Change]:
        """Make the plan's changes; yields each that is made.

        Raises:
            GitHubError: when GitHub refuses one; those before it stay, and the next plan leaves them out.
        """
        for change in plan.changes:
            if change.request is not None:
                self._repository.write(*change.request)
                yield change

    def _plan_issues(self, repository: dict[str, Any]) -> Iterator[Change]:
        request = None if repository.get("has_issues", True) else ("PATCH", "", {"has_issues": True})
        yield Change("issues are enabled", "alerts are issues", request)

    def _plan_labels(self) -> Iterator[Change]:
        present = self._repository.list_names("labels") or set()
        for subject in (Subject(), Subject.for_workflow("")):
            body = {"name": subject.label, "description": subject.description, "color": "d93f0b"}
            request = None if subject.label in present else ("POST", "labels", body)
            yield Change(f"label {subject.label}", subject.description, request)

    def _plan_pull_requests(self) -> Change:
        path = "actions/permissions/workflow"
        rights, _ = self._repository.try_to_read(path)
        body = {
            "default_workflow_permissions": (rights or {}).get("default_workflow_permissions", "read"),
            "can_approve_pull_request_reviews": True,
        }
        done = bool(rights) and rights["can_approve_pull_request_reviews"]
        why = "a run's own token may propose a model, where there is neither an app nor EVERGREEN_TOKEN"
        return Change("Actions may open pull requests", why, None if done else ("PUT", path, body))

    def _plan_protection(self, branch: str) -> Change:
        name = f"protection of {branch}"
        why = f"a pull request is the only way to production; required: {', '.join(REQUIRED_CHECKS)}"
        if self._repository.is_protected(branch):
            return Change(name, why)
        checks = {
            "required_status_checks": [{"context": check} for check in REQUIRED_CHECKS],
            "strict_required_status_checks_policy": False,
        }
        review = {
            # Who merges decides; two people at least can ask for more.
            "required_approving_review_count": 0,
            "dismiss_stale_reviews_on_push": True,
            "require_code_owner_review": False,
            "require_last_push_approval": False,
            "required_review_thread_resolution": False,
        }
        body = {
            "name": _RULESET,
            "target": "branch",
            "enforcement": "active",
            "conditions": {"ref_name": {"include": ["~DEFAULT_BRANCH"], "exclude": []}},
            "rules": [
                {"type": "deletion"},
                {"type": "non_fast_forward"},
                {"type": "pull_request", "parameters": review},
                {"type": "required_status_checks", "parameters": checks},
            ],
        }
        return Change(name, why, ("POST", "rulesets", body))

    def _plan_environment(self) -> Change:
        path = f"environments/{ENVIRONMENT}"
        _, problem = self._repository.try_to_read(path)
        why = "holds the deployment's secrets; give it a reviewer, if somebody has to approve deployments"
        return Change(f"environment {ENVIRONMENT}", why, ("PUT", path, {}) if problem == "404" else None)
