"""What the stand-in for GitHub stores, and how a test adds to it."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from github_objects import ApiError, Call, Row, Site, refuse
from github_refs import MergeConflictError, Refs, make_sha


class GitHubState:
    """Keeps what was written, so that tests can look at it.

    Attributes:
        issues: without the pull requests.
        pulls: complete objects; one that is open shows the newest commit of its branch when it is answered.
        comments: by number of the issue or pull request.
        labels: by name.
        login: whose the token is; one that ends with [bot] is an app's, which may not read /user.
        now: the clock.
        most_open: the largest number of issues that were open at one time.
        drops_labels: whether the token may not set labels.
        private, has_issues, permissions: of the repository; None gives all permissions.
        check_runs, statuses: in the order in which they came.
        releases: oldest first.
        workflows: see `add_workflow`.
        dispatches: body of each, with `workflow`, the name of the file.
        secrets: names.
        variables: values by name.
        environments: names.
        environment_secrets: names, of each environment.
        rules: types of the default branch's rulesets.
        rulesets: that were made here.
        protection: of the default branch, as GitHub answers it; None where it has none.
        workflow_permissions, actions_permissions: the settings of Actions.
    """

    repository = "acme/reviews"

    def __init__(self, git_folder: Path | None = None) -> None:
        self.site = Site("", "", self.repository)
        self.refs = Refs(git_folder)
        self.login = "evergreen-bot"
        self.default_branch = "main"
        self.private = False
        self.permissions: Row | None = None
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.issues: list[Row] = []
        self.pulls: list[Row] = []
        self.comments: dict[int, list[Row]] = {}
        self.labels: dict[str, Row] = {}
        self.most_open = 0
        self.drops_labels = False
        self.check_runs: list[Row] = []
        self.statuses: list[Row] = []
        self.releases: list[Row] = []
        self.workflows: list[Row] = []
        self.dispatches: list[Row] = []
        self.secrets: list[str] = []
        self.variables: dict[str, str] = {}
        self.environments: list[str] = []
        self.protection: Row | None = None
        self.environment_secrets: list[str] = []
        self.rules: list[str] = []
        self.rulesets: list[Row] = []
        self.has_issues = True
        self.workflow_permissions: Row = {
            "default_workflow_permissions": "read",
            "can_approve_pull_request_reviews": True,
        }
        self.actions_permissions: Row = {"enabled": True, "allowed_actions": "all"}
        self._ids = count(1001)

    @property
    def open_issues(self) -> list[Row]:
        return [issue for issue in self.issues if issue["state"] == "open"]

    @property
    def open_pulls(self) -> list[Row]:
        return [pull for pull in self.pulls if pull["state"] == "open"]

    def format_now(self) -> str:
        return self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def make_id(self) -> int:
        return next(self._ids)

    def add_issue(self, **fields: Any) -> Row:
        """Open an issue; `labels` are names, `user` is a login."""
        labels = self._make_labels(fields.pop("labels", []))
        login = fields.pop("user", self.login)
        issue = self.site.make_issue(self._count(), login, self.format_now(), **fields, labels=labels)
        self.issues.append(issue)
        self.comments[issue["number"]] = []
        self.most_open = max(self.most_open, len(self.open_issues))
        return issue

    def add_pull(self, head: str, base: str = "main", **fields: Any) -> Row:
        """Open a pull request of a branch, which must be in the Git folder; without a folder it is made.

        Args:
            head, base: names of branches.
            fields: more of GitHub's, such as title and body; `user` is a login, `labels` are names.
        """
        if self.refs.folder is None and self.refs.get(f"heads/{head}") is None:
            self.refs.set(f"heads/{head}", make_sha(head))
        tips = {}
        for name, branch in (("head", head), ("base", base)):
            sha = self.refs.get(f"heads/{branch}")
            if sha is None:
                raise refuse("PullRequest", "invalid", name)
            tips[name] = self.site.make_tip(branch, sha, self.read_repository())
        login = fields.pop("user", self.login)
        labels = self._make_labels(fields.pop("labels", []))
        pull = self.site.make_pull(self._count(), login, self.format_now(), **tips, **fields, labels=labels)
        self.pulls.append(pull)
        self.comments[pull["number"]] = []
        return pull

    def add_comment(self, number: int, body: str, user: str | None = None) -> Row:
        """Comment on an issue or a pull request."""
        comment = self.site.make_comment(self.make_id(), number, user or self.login, self.format_now(), body)
        self.comments[number].append(comment)
        return comment

    def add_workflow(self, file: str, state: str = "active") -> Row:
        """Add a workflow that has workflow_dispatch."""
        workflow = self.site.make_workflow(self.make_id(), file, state, self.format_now())
        self.workflows.append(workflow)
        return workflow

    def close(self, number: int) -> Row:
        """Close an issue or a pull request without merging it."""
        return self._set_state(self._find(number), "closed")

    def merge(self, number: int) -> Row:
        """Merge an open pull request, in the Git folder too; its branch stays.

        Raises:
            ApiError: 405, when it is not open or has a conflict.
        """
        pull = self._refresh(self._find_pull(number))
        if pull["state"] != "open":
            raise ApiError(405, "Pull Request is not mergeable")
        message = f"Merge pull request #{number} from {pull['head']['label']}\n\n{pull['title']}"
        try:
            merged = self.refs.merge(pull["base"]["ref"], pull["head"]["sha"], message, self.format_now())
        except MergeConflictError as error:
            raise ApiError(405, "Pull Request is not mergeable") from error
        self._set_state(pull, "closed")
        pull |= {"merged": True, "merged_at": pull["closed_at"], "merge_commit_sha": merged}
        return pull | {"merged_by": self.site.make_user(self.login)}

    def read_repository(self) -> Row:
        fields: Row = {"private": self.private, "default_branch": self.default_branch, "has_issues": self.has_issues}
        if self.permissions is not None:
            fields["permissions"] = self.permissions
        count = len(self.open_issues) + len(self.open_pulls)
        return self.site.make_repository("2026-01-01T00:00:00Z", open_issues=count, open_issues_count=count, **fields)

    # Look-ups and changes

    def _count(self) -> int:
        """The next number; issues and pull requests share them."""
        return len(self.issues) + len(self.pulls) + 1

    def _find(self, number: int) -> Row:
        for row in (*self.issues, *self.pulls):
            if row["number"] == number:
                return row
        raise ApiError(404)

    def _find_pull(self, number: int) -> Row:
        row = self._find(number)
        if "head" not in row:
            raise ApiError(404)
        return row

    def _find_comment(self, call: Call) -> Row:
        for comments in self.comments.values():
            for comment in comments:
                if comment["id"] == int(call["comment_id"]):
                    return comment
        raise ApiError(404)

    def _find_label(self, name: str) -> Row:
        if name not in self.labels:
            raise ApiError(404)
        return self.labels[name]

    def _show_issue(self, row: Row) -> Row:
        """A pull request as the issue that it also is."""
        comments = {"comments": len(self.comments[row["number"]])}
        if "head" not in row:
            return row | comments
        names = ("title", "body", "state", "user", "labels", "assignee", "created_at", "updated_at", "closed_at")
        shown = self.site.make_issue(row["number"], self.login, row["created_at"])
        shown |= {name: row[name] for name in (*names, "id", "draft", "html_url")} | comments
        page = row["html_url"]
        links = {"url": row["url"], "html_url": page, "diff_url": f"{page}.diff", "patch_url": f"{page}.patch"}
        return shown | {"pull_request": links | {"merged_at": row["merged_at"]}}

    def _refresh(self, pull: Row) -> Row:
        """Show the newest commit of an open pull request's branch."""
        for tip in (pull["head"], pull["base"]):
            if pull["state"] == "open":
                tip["sha"] = self.refs.get(f"heads/{tip['ref']}") or tip["sha"]
        pull["comments"] = len(self.comments[pull["number"]])
        return pull

    def _update(self, row: Row, fields: Row) -> Row:
        state = str(fields.get("state", row["state"]))
        if "head" in row and row["merged_at"] and state == "open":
            raise refuse("PullRequest", "invalid", "state")
        row |= {name: fields[name] for name in ("title", "body", "maintainer_can_modify") if name in fields}
        if "labels" in fields:
            row["labels"] = self._make_labels(fields["labels"])
        if "head" in row and "base" in fields:
            sha = self.refs.get(f"heads/{fields['base']}")
            if sha is None:
                raise refuse("PullRequest", "invalid", "base")
            row["base"] = self.site.make_tip(fields["base"], sha, self.read_repository())
        if state != row["state"]:
            self._set_state(row, state)
            if "head" not in row:
                row["state_reason"] = fields.get("state_reason", "completed" if state == "closed" else "reopened")
        row["updated_at"] = self.format_now()
        self.most_open = max(self.most_open, len(self.open_issues))
        return row

    def _set_state(self, row: Row, state: str) -> Row:
        now = self.format_now()
        row |= {"state": state, "updated_at": now, "closed_at": now if state == "closed" else None}
        return row

    def _make_labels(self, names: list[Any]) -> list[Row]:
        """The labels of these names, made where they are missing, as GitHub does."""
        if self.drops_labels:
            return []
        plain = [name if isinstance(name, str) else name["name"] for name in names]
        return [self.labels.setdefault(name, self.site.make_label(name)) for name in plain]

    def _make_ref(self, ref: str) -> Row:
        sha = self.refs.get(ref)
        if sha is None:
            raise ApiError(404)
        target = {"type": "commit", "sha": sha, "url": f"{self.site.base}/git/commits/{sha}"}
        return {
            "ref": f"refs/{ref}",
            "node_id": f"REF_{ref}",
            "url": f"{self.site.base}/git/refs/{ref}",
            "object": target,
        }

    def _make_commit(self, sha: str) -> Row:
        message, parents = self.refs.read_message(sha)
        return self.site.make_commit(sha, message, self.format_now(), parents)
