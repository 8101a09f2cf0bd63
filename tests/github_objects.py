"""GitHub's objects as its REST API answers them, complete, and what a route of the stand-in gets and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

Row = dict[str, Any]
DOCUMENTATION = "https://docs.github.com/rest"
_Route = TypeVar("_Route", bound=Callable[..., Any])


class ApiError(Exception):
    """An answer that refuses.

    Args:
        status: HTTP's.
        message: for the caller.
        errors: GitHub's list of a 422.
    """

    def __init__(self, status: int, message: str = "Not Found", *errors: Row) -> None:
        super().__init__(message)
        self.status = status
        self.body: Row = {"message": message, "documentation_url": DOCUMENTATION, "status": str(status)}
        if errors:
            self.body["errors"] = list(errors)


def refuse(resource: str, code: str, field: str, message: str = "") -> ApiError:
    """A 422 as GitHub words it."""
    error = {"resource": resource, "code": code, "field": field} | ({"message": message} if message else {})
    return ApiError(422, "Validation Failed", error)


@dataclass(frozen=True)
class Call:
    """A request.

    Attributes:
        parameters: of the path, by their names in GitHub's description.
        query: last value of each name.
        body: None where there was none.
    """

    parameters: dict[str, str]
    query: dict[str, str]
    body: Any

    def __getitem__(self, name: str) -> str:
        return self.parameters[name]

    @property
    def fields(self) -> Row:
        """The body, empty where there was none."""
        return self.body or {}


@dataclass(frozen=True)
class Rows:
    """A list to answer page by page.

    Attributes:
        rows: all of them.
        key: where set, the answer is an object with this key and `total_count`.
    """

    rows: list[Row]
    key: str = ""


def route(method: str, template: str) -> Callable[[_Route], _Route]:
    """Make a method answer an operation, named as in GitHub's description."""

    def mark(function: _Route) -> _Route:
        function.operation = (method, template)  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True)
class Site:
    """Makes the objects of one host and repository.

    Attributes:
        api: address of the REST API.
        web: address of the pages.
        repository: OWNER/NAME.
    """

    api: str
    web: str
    repository: str

    @property
    def base(self) -> str:
        """The repository's address in the API."""
        return f"{self.api}/repos/{self.repository}"

    @property
    def page(self) -> str:
        """The repository's page."""
        return f"{self.web}/{self.repository}"

    def make_user(self, login: str) -> Row:
        name = quote(login)  # a bot's has brackets
        url = f"{self.api}/users/{name}"
        parts = "followers following gists starred subscriptions organizations repos events received_events"
        return {f"{part}_url": f"{url}/{part}" for part in parts.split()} | {
            "login": login,
            "id": sum(login.encode()),
            "node_id": f"U_{login}",
            "avatar_url": f"{self.web}/avatars/{name}",
            "gravatar_id": "",
            "url": url,
            "html_url": f"{self.web}/{name}",
            "type": "Bot" if login.endswith("[bot]") else "User",
            "site_admin": False,
        }

    def make_public_user(self, login: str, created_at: str) -> Row:
        empty = dict.fromkeys(("bio", "company", "email", "hireable", "location", "name"))
        counts = dict.fromkeys(("followers", "following", "public_gists", "public_repos"), 0)
        dates = {"created_at": created_at, "updated_at": created_at}
        return self.make_user(login) | empty | counts | dates | {"blog": "", "user_view_type": "public"}

    def make_repository(self, created_at: str, **fields: Any) -> Row:
        owner, name = self.repository.split("/")
        parts = (
            "archive assignees blobs branches collaborators comments commits compare contents contributors deployments"
            " downloads events forks hooks issues keys labels languages merges milestones notifications pulls releases"
            " stargazers statuses subscribers subscription tags teams trees"
        )
        counts = "forks forks_count network_count open_issues open_issues_count size stargazers_count"
        return (
            {f"{part}_url": f"{self.base}/{part}" for part in parts.split()}
            | dict.fromkeys((*counts.split(), "subscribers_count", "watchers", "watchers_count"), 0)
            | dict.fromkeys(("has_issues", "has_projects", "has_wiki", "has_downloads"), True)
            | dict.fromkeys(("has_pages", "has_discussions", "fork", "archived", "disabled", "private"), False)
            | dict.fromkeys(("description", "homepage", "language", "mirror_url", "license"))
            | {f"git_{part}_url": f"{self.base}/git/{part}" for part in ("commits", "refs", "tags")}
            | {
                "id": 1,
                "node_id": "R_1",
                "name": name,
                "full_name": self.repository,
                "owner": self.make_user(owner),
                "url": self.base,
                "html_url": self.page,
                "issue_comment_url": f"{self.base}/issues/comments{{/number}}",
                "issue_events_url": f"{self.base}/issues/events{{/number}}",
                "clone_url": f"{self.page}.git",
                "git_url": f"git://github.invalid/{self.repository}.git",
                "ssh_url": f"git@github.invalid:{self.repository}.git",
                "svn_url": self.page,
                "default_branch": "main",
                "visibility": "private" if fields.get("private") else "public",
                "permissions": dict.fromkeys(("admin", "maintain", "push", "triage", "pull"), True),
                "created_at": created_at,
                "updated_at": created_at,
                "pushed_at": created_at,
            }
            | fields
        )

    def make_label(self, name: str, **fields: Any) -> Row:
        url = f"{self.base}/labels/{name}"
        number = sum(name.encode())
        values = {"id": number, "node_id": f"LA_{number}", "url": url, "name": name, "description": ""}
        return values | {"color": "ededed", "default": False} | fields

    def make_issue(self, number: int, login: str, created_at: str, **fields: Any) -> Row:
        url = f"{self.base}/issues/{number}"
        parts = ("comments", "events", "timeline")
        return (
            {f"{part}_url": f"{url}/{part}" for part in parts}
            | {
                "id": number,
                "node_id": f"I_{number}",
                "number": number,
                "url": url,
                "html_url": f"{self.page}/issues/{number}",
                "repository_url": self.base,
                "labels_url": f"{url}/labels{{/name}}",
                "title": "",
                "body": None,
                "state": "open",
                "state_reason": None,
                "user": self.make_user(login),
                "labels": [],
                "assignee": None,
                "assignees": [],
                "milestone": None,
                "locked": False,
                "comments": 0,
                "created_at": created_at,
                "updated_at": created_at,
                "closed_at": None,
                "closed_by": None,
                "author_association": "OWNER",
            }
            | fields
        )

    def make_comment(self, comment_id: int, number: int, login: str, created_at: str, body: str) -> Row:
        return {
            "id": comment_id,
            "node_id": f"IC_{comment_id}",
            "url": f"{self.base}/issues/comments/{comment_id}",
            "html_url": f"{self.page}/issues/{number}#issuecomment-{comment_id}",
            "issue_url": f"{self.base}/issues/{number}",
            "body": body,
            "user": self.make_user(login),
            "created_at": created_at,
            "updated_at": created_at,
            "author_association": "OWNER",
        }

    def make_pull(self, number: int, login: str, created_at: str, **fields: Any) -> Row:
        """A pull request; `head` and `base` are among the fields, of `make_tip`."""
        url, issue, page = f"{self.base}/pulls/{number}", f"{self.base}/issues/{number}", f"{self.page}/pull/{number}"
        review_comment = f"{self.base}/pulls/comments{{/number}}"
        statuses = f"{self.base}/statuses/{fields['head']['sha']}"
        links = {
            "self": url,
            "html": page,
            "issue": issue,
            "comments": f"{issue}/comments",
            "review_comments": f"{url}/comments",
            "review_comment": review_comment,
            "commits": f"{url}/commits",
            "statuses": statuses,
        }
        return (
            {
                "id": number,
                "node_id": f"PR_{number}",
                "number": number,
                "url": url,
                "html_url": page,
                "diff_url": f"{page}.diff",
                "patch_url": f"{page}.patch",
                "issue_url": issue,
                "comments_url": f"{issue}/comments",
                "commits_url": f"{url}/commits",
                "review_comments_url": f"{url}/comments",
                "review_comment_url": review_comment,
                "statuses_url": statuses,
                "_links": {name: {"href": address} for name, address in links.items()},
                "title": "",
                "body": None,
                "state": "open",
                "draft": False,
                "locked": False,
                "user": self.make_user(login),
                "labels": [],
                "assignee": None,
                "assignees": [],
                "requested_reviewers": [],
                "requested_teams": [],
                "milestone": None,
                "author_association": "OWNER",
                "auto_merge": None,
                "created_at": created_at,
                "updated_at": created_at,
                "closed_at": None,
                "merged_at": None,
                "merged": False,
                "merged_by": None,
                "merge_commit_sha": None,
                "mergeable": True,
                "mergeable_state": "clean",
                "maintainer_can_modify": False,
            }
            | dict.fromkeys(("additions", "changed_files", "comments", "commits", "deletions", "review_comments"), 0)
            | fields
        )

    def make_tip(self, branch: str, sha: str, repository: Row) -> Row:
        owner = repository["owner"]
        return {"label": f"{owner['login']}:{branch}", "ref": branch, "sha": sha, "user": owner, "repo": repository}

    def make_commit(self, sha: str, message: str, date: str, parents: list[str]) -> Row:
        url = f"{self.base}/commits/{sha}"
        person = {"name": "Ann", "email": "ann@example.com", "date": date}
        verification = {
            "verified": False,
            "reason": "unsigned",
            "signature": None,
            "payload": None,
            "verified_at": None,
        }
        return {
            "sha": sha,
            "node_id": f"C_{sha}",
            "url": url,
            "html_url": f"{self.page}/commit/{sha}",
            "comments_url": f"{url}/comments",
            "commit": {
                "url": f"{self.base}/git/commits/{sha}",
                "author": person,
                "committer": person,
                "message": message,
                "tree": {"sha": sha, "url": f"{self.base}/git/trees/{sha}"},
                "comment_count": 0,
                "verification": verification,
            },
            "author": None,
            "committer": None,
            "parents": [{"sha": parent, "url": f"{self.base}/commits/{parent}"} for parent in parents],
        }

    def make_release(self, number: int, login: str, created_at: str, **fields: Any) -> Row:
        url, tag = f"{self.base}/releases/{number}", fields["tag_name"]
        return {
            "id": number,
            "node_id": f"RE_{number}",
            "url": url,
            "html_url": f"{self.page}/releases/tag/{tag}",
            "assets_url": f"{url}/assets",
            "upload_url": f"{url}/assets{{?name,label}}",
            "tarball_url": f"{self.base}/tarball/{tag}",
            "zipball_url": f"{self.base}/zipball/{tag}",
            "target_commitish": "main",
            "name": None,
            "body": None,
            "draft": False,
            "prerelease": False,
            "assets": [],
            "author": self.make_user(login),
            "created_at": created_at,
            "published_at": None if fields.get("draft") else created_at,
        } | fields

    def make_check_run(self, number: int, app: Row, started_at: str, **fields: Any) -> Row:
        url = f"{self.base}/check-runs/{number}"
        output = {"title": None, "summary": None, "text": None} | fields.pop("output", {})
        counts = {"annotations_count": len(output.pop("annotations", [])), "annotations_url": f"{url}/annotations"}
        return {
            "id": number,
            "node_id": f"CR_{number}",
            "url": url,
            "html_url": f"{self.page}/runs/{number}",
            "details_url": None,
            "external_id": None,
            "status": "queued",
            "conclusion": None,
            "started_at": started_at,
            "completed_at": None,
            "check_suite": {"id": 1},
            "app": app,
            "pull_requests": [],
            "output": output | counts,
        } | fields

    def make_workflow(self, number: int, file: str, state: str, created_at: str) -> Row:
        return {
            "id": number,
            "node_id": f"W_{number}",
            "name": file.partition(".")[0].capitalize(),
            "path": f".github/workflows/{file}",
            "state": state,
            "url": f"{self.base}/actions/workflows/{number}",
            "html_url": f"{self.page}/blob/main/.github/workflows/{file}",
            "badge_url": f"{self.page}/workflows/{file}/badge.svg",
            "created_at": created_at,
            "updated_at": created_at,
        }
