"""What the stand-in for GitHub stores, and its routes for the repository, issues, pull requests and refs."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from github_automation import AutomationRoutes
from github_objects import ApiError, Call, Row, Rows, Site, refuse, route
from github_refs import MergeConflictError, Refs, make_sha

_REPOSITORY = "/repos/{owner}/{repo}"


class GitHubState(AutomationRoutes):
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
        private, permissions: of the repository; None gives all permissions.
    """

    repository = "acme/reviews"

    def __init__(self, git_folder: Path | None = None) -> None:
        super().__init__()
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
            fields: more of GitHub's, such as title and body; `user` is a login.
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
        pull = self.site.make_pull(self._count(), login, self.format_now(), **tips, **fields)
        self.pulls.append(pull)
        self.comments[pull["number"]] = []
        return pull

    def add_comment(self, number: int, body: str, user: str | None = None) -> Row:
        """Comment on an issue or a pull request."""
        comment = self.site.make_comment(self.make_id(), number, user or self.login, self.format_now(), body)
        self.comments[number].append(comment)
        return comment

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
            merged = self.refs.merge(pull["base"]["ref"], pull["head"]["sha"], message)
        except MergeConflictError as error:
            raise ApiError(405, "Pull Request is not mergeable") from error
        self._set_state(pull, "closed")
        pull |= {"merged": True, "merged_at": pull["closed_at"], "merge_commit_sha": merged}
        return pull | {"merged_by": self.site.make_user(self.login)}

    # The repository, its branches and labels

    @route("GET", _REPOSITORY)
    def get_repository(self, _call: Call) -> tuple[int, Any]:
        return 200, self.read_repository()

    def read_repository(self) -> Row:
        fields: Row = {"private": self.private, "default_branch": self.default_branch}
        if self.permissions is not None:
            fields["permissions"] = self.permissions
        count = len(self.open_issues) + len(self.open_pulls)
        return self.site.make_repository("2026-01-01T00:00:00Z", open_issues=count, open_issues_count=count, **fields)

    @route("GET", f"{_REPOSITORY}/git/ref/{{ref}}")
    def get_ref(self, call: Call) -> tuple[int, Any]:
        return 200, self._make_ref(call["ref"])

    @route("POST", f"{_REPOSITORY}/git/refs")
    def create_ref(self, call: Call) -> tuple[int, Any]:
        ref = call.fields["ref"].removeprefix("refs/")
        if self.refs.get(ref):
            raise ApiError(422, "Reference already exists")
        if self.refs.find_commit(call.fields["sha"]) is None:
            raise ApiError(422, "Object does not exist")
        self.refs.set(ref, call.fields["sha"])
        return 201, self._make_ref(ref)

    @route("DELETE", f"{_REPOSITORY}/git/refs/{{ref}}")
    def delete_ref(self, call: Call) -> tuple[int, Any]:
        if self.refs.get(call["ref"]) is None:
            raise ApiError(422, "Reference does not exist")
        for pull in self.open_pulls:
            if f"heads/{pull['head']['ref']}" == call["ref"]:
                self._set_state(self._refresh(pull), "closed")
        self.refs.delete(call["ref"])
        return 204, None

    @route("GET", f"{_REPOSITORY}/branches/{{branch}}")
    def get_branch(self, call: Call) -> tuple[int, Any]:
        name = call["branch"]
        sha = self.refs.get(f"heads/{name}")
        if sha is None:
            raise ApiError(404, "Branch not found")
        url = f"{self.site.base}/branches/{name}"
        is_protected = self.protection is not None and name == self.default_branch
        return 200, {
            "name": name,
            "commit": self._make_commit(sha),
            "_links": {"self": url, "html": f"{self.site.page}/tree/{name}"},
            "protected": is_protected,
            "protection": {"enabled": is_protected},
            "protection_url": f"{url}/protection",
        }

    @route("GET", f"{_REPOSITORY}/commits/{{ref}}")
    def get_commit(self, call: Call) -> tuple[int, Any]:
        sha = self.refs.find_commit(call["ref"])
        if sha is None:
            raise ApiError(422, f"No commit found for SHA: {call['ref']}")
        return 200, self._make_commit(sha)

    @route("GET", f"{_REPOSITORY}/labels")
    def list_labels(self, _call: Call) -> tuple[int, Any]:
        return 200, Rows(list(self.labels.values()))

    @route("POST", f"{_REPOSITORY}/labels")
    def create_label(self, call: Call) -> tuple[int, Any]:
        name = call.fields["name"]
        if name in self.labels:
            raise refuse("Label", "already_exists", "name")
        self.labels[name] = self.site.make_label(**call.fields)
        return 201, self.labels[name]

    @route("GET", f"{_REPOSITORY}/labels/{{name}}")
    def get_label(self, call: Call) -> tuple[int, Any]:
        return 200, self._find_label(call["name"])

    @route("PATCH", f"{_REPOSITORY}/labels/{{name}}")
    def update_label(self, call: Call) -> tuple[int, Any]:
        label = self.labels.pop(self._find_label(call["name"])["name"])
        fields = dict(call.fields)
        name = fields.pop("new_name", call["name"])
        self.labels[name] = label
        label |= self.site.make_label(name, **{"color": label["color"], "description": label["description"]} | fields)
        return 200, label

    # Issues and comments

    @route("GET", f"{_REPOSITORY}/issues")
    def list_issues(self, call: Call) -> tuple[int, Any]:
        wanted = {name for name in call.query.get("labels", "").split(",") if name}
        rows = [
            issue
            for issue in [self._show_issue(row) for row in (*self.issues, *self.pulls)]
            if wanted <= {row["name"] for row in issue["labels"]}
        ]
        return 200, Rows(_sort(_filter_state(rows, call.query), call.query, "desc"))

    @route("POST", f"{_REPOSITORY}/issues")
    def create_issue(self, call: Call) -> tuple[int, Any]:
        names = ("title", "body", "labels")
        return 201, self.add_issue(**{name: call.fields[name] for name in names if name in call.fields})

    @route("GET", f"{_REPOSITORY}/issues/{{issue_number}}")
    def get_issue(self, call: Call) -> tuple[int, Any]:
        return 200, self._show_issue(self._find(int(call["issue_number"])))

    @route("PATCH", f"{_REPOSITORY}/issues/{{issue_number}}")
    def update_issue(self, call: Call) -> tuple[int, Any]:
        return 200, self._show_issue(self._update(self._find(int(call["issue_number"])), call.fields))

    @route("GET", f"{_REPOSITORY}/issues/{{issue_number}}/labels")
    def list_issue_labels(self, call: Call) -> tuple[int, Any]:
        return 200, Rows(self._find(int(call["issue_number"]))["labels"])

    @route("POST", f"{_REPOSITORY}/issues/{{issue_number}}/labels")
    def add_issue_labels(self, call: Call) -> tuple[int, Any]:
        row = self._find(int(call["issue_number"]))
        body = call.fields.get("labels", []) if isinstance(call.body, dict) else call.body
        names = [label["name"] for label in row["labels"]]
        row["labels"] += [label for label in self._make_labels(body) if label["name"] not in names]
        return 200, row["labels"]

    @route("DELETE", f"{_REPOSITORY}/issues/{{issue_number}}/labels/{{name}}")
    def remove_issue_label(self, call: Call) -> tuple[int, Any]:
        row = self._find(int(call["issue_number"]))
        if call["name"] not in [label["name"] for label in row["labels"]]:
            raise ApiError(404, "Label does not exist")
        row["labels"] = [label for label in row["labels"] if label["name"] != call["name"]]
        return 200, row["labels"]

    @route("GET", f"{_REPOSITORY}/issues/{{issue_number}}/comments")
    def list_comments(self, call: Call) -> tuple[int, Any]:
        return 200, Rows(self.comments[self._find(int(call["issue_number"]))["number"]])

    @route("POST", f"{_REPOSITORY}/issues/{{issue_number}}/comments")
    def create_comment(self, call: Call) -> tuple[int, Any]:
        return 201, self.add_comment(self._find(int(call["issue_number"]))["number"], call.fields["body"])

    @route("GET", f"{_REPOSITORY}/issues/comments/{{comment_id}}")
    def get_comment(self, call: Call) -> tuple[int, Any]:
        return 200, self._find_comment(call)

    @route("PATCH", f"{_REPOSITORY}/issues/comments/{{comment_id}}")
    def update_comment(self, call: Call) -> tuple[int, Any]:
        comment = self._find_comment(call)
        comment |= {"body": call.fields["body"], "updated_at": self.format_now()}
        return 200, comment

    @route("DELETE", f"{_REPOSITORY}/issues/comments/{{comment_id}}")
    def delete_comment(self, call: Call) -> tuple[int, Any]:
        comment = self._find_comment(call)
        for comments in self.comments.values():
            if comment in comments:
                comments.remove(comment)
        return 204, None

    # Pull requests

    @route("GET", f"{_REPOSITORY}/pulls")
    def list_pulls(self, call: Call) -> tuple[int, Any]:
        rows = [self._refresh(pull) for pull in self.pulls]
        head, base = call.query.get("head", ""), call.query.get("base")
        # As GitHub, which ignores a head without its owner.
        rows = [pull for pull in rows if ":" not in head or pull["head"]["label"] == head]
        rows = [pull for pull in rows if base in (None, pull["base"]["ref"])]
        is_default = call.query.get("sort", "created") == "created"
        return 200, Rows(_sort(_filter_state(rows, call.query), call.query, "desc" if is_default else "asc"))

    @route("POST", f"{_REPOSITORY}/pulls")
    def create_pull(self, call: Call) -> tuple[int, Any]:
        owner = self.repository.partition("/")[0]
        head, base = call.fields["head"].removeprefix(f"{owner}:"), call.fields["base"]
        if not call.fields.get("title"):
            raise refuse("PullRequest", "missing_field", "title")
        if (head, base) in [(pull["head"]["ref"], pull["base"]["ref"]) for pull in self.open_pulls]:
            message = f"A pull request already exists for {owner}:{head}."
            raise refuse("PullRequest", "custom", "head", message)
        sha = self.refs.get(f"heads/{head}")
        if sha is None:
            raise refuse("PullRequest", "invalid", "head")
        if self.refs.get(f"heads/{base}") and self.refs.contains(base, sha):
            raise refuse("PullRequest", "custom", "head", f"No commits between {base} and {head}")
        names = ("title", "body", "draft", "maintainer_can_modify")
        return 201, self.add_pull(head, base, **{name: call.fields[name] for name in names if name in call.fields})

    @route("GET", f"{_REPOSITORY}/pulls/{{pull_number}}")
    def get_pull(self, call: Call) -> tuple[int, Any]:
        return 200, self._refresh(self._find_pull(int(call["pull_number"])))

    @route("PATCH", f"{_REPOSITORY}/pulls/{{pull_number}}")
    def update_pull(self, call: Call) -> tuple[int, Any]:
        return 200, self._update(self._refresh(self._find_pull(int(call["pull_number"]))), call.fields)

    @route("PUT", f"{_REPOSITORY}/pulls/{{pull_number}}/merge")
    def merge_pull(self, call: Call) -> tuple[int, Any]:
        pull = self._refresh(self._find_pull(int(call["pull_number"])))
        if call.fields.get("sha", pull["head"]["sha"]) != pull["head"]["sha"]:
            raise ApiError(409, "Head branch was modified. Review and try the merge again.")
        sha = self.merge(pull["number"])["merge_commit_sha"]
        return 200, {"sha": sha, "merged": True, "message": "Pull Request successfully merged"}

    @route("GET", f"{_REPOSITORY}/commits/{{commit_sha}}/pulls")
    def list_pulls_of_commit(self, call: Call) -> tuple[int, Any]:
        rows = [self._refresh(pull) for pull in self.pulls]
        return 200, Rows([row for row in rows if call["commit_sha"] in (row["head"]["sha"], row["merge_commit_sha"])])

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
        state = fields.get("state", row["state"])
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


def _filter_state(rows: list[Row], query: dict[str, str]) -> list[Row]:
    state = query.get("state", "open")
    return [row for row in rows if state in ("all", row["state"])]


def _sort(rows: list[Row], query: dict[str, str], direction: str) -> list[Row]:
    keys = {"updated": "updated_at", "comments": "comments"}
    key = keys.get(query.get("sort", "created"), "created_at")
    return sorted(rows, key=lambda row: (row[key], row["number"]), reverse=query.get("direction", direction) == "desc")
