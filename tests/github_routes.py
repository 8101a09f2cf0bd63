"""What the stand-in for GitHub answers about the repository, issues, pull requests and refs."""

from typing import Any

from github_automation import AutomationRoutes
from github_objects import ApiError, Call, Row, Rows, refuse, route

_REPOSITORY = "/repos/{owner}/{repo}"


class GitHubRoutes(AutomationRoutes):
    """Answers what people and commands ask for."""

    # The repository, its branches and labels

    @route("GET", _REPOSITORY)
    def get_repository(self, _call: Call) -> tuple[int, Any]:
        return 200, self.read_repository()

    @route("PATCH", _REPOSITORY)
    def update_repository(self, call: Call) -> tuple[int, Any]:
        self.has_issues = call.fields.get("has_issues", self.has_issues)
        return 200, self.read_repository()

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


def _filter_state(rows: list[Row], query: dict[str, str]) -> list[Row]:
    state = query.get("state", "open")
    return [row for row in rows if state in ("all", row["state"])]


def _sort(rows: list[Row], query: dict[str, str], direction: str) -> list[Row]:
    keys = {"updated": "updated_at", "comments": "comments"}
    key = keys.get(query.get("sort", "created"), "created_at")
    return sorted(rows, key=lambda row: (row[key], row["number"]), reverse=query.get("direction", direction) == "desc")
