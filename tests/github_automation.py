"""What the stand-in for GitHub answers about checks, releases, workflows and settings."""

from typing import Any

from github_objects import ApiError, Call, Row, Rows, refuse, route
from github_refs import make_sha
from github_state import GitHubState

_REPOSITORY = "/repos/{owner}/{repo}"


class AutomationRoutes(GitHubState):
    """Answers what workflows ask for."""

    # Checks

    @route("POST", f"{_REPOSITORY}/check-runs")
    def create_check_run(self, call: Call) -> tuple[int, Any]:
        now = self.format_now()
        app = {
            "id": 1,
            "slug": "github-actions",
            "node_id": "A_1",
            "owner": self.site.make_user("github"),
            "name": "GitHub Actions",
            "description": "",
            "external_url": "https://help.github.com",
            "html_url": f"{self.site.web}/apps/github-actions",
            "created_at": now,
            "updated_at": now,
            "permissions": {},
            "events": [],
        }
        self.check_runs.append(self._complete(self.site.make_check_run(self.make_id(), app, now, **call.fields)))
        return 201, self.check_runs[-1]

    @route("GET", f"{_REPOSITORY}/check-runs/{{check_run_id}}")
    def get_check_run(self, call: Call) -> tuple[int, Any]:
        return 200, _find(self.check_runs, "id", int(call["check_run_id"]))

    @route("PATCH", f"{_REPOSITORY}/check-runs/{{check_run_id}}")
    def update_check_run(self, call: Call) -> tuple[int, Any]:
        run = _find(self.check_runs, "id", int(call["check_run_id"]))
        fields = dict(call.fields)
        output = {name: value for name, value in fields.pop("output", {}).items() if name in run["output"]}
        run["output"] |= output
        run |= fields
        return 200, self._complete(run)

    @route("GET", f"{_REPOSITORY}/commits/{{ref}}/check-runs")
    def list_check_runs(self, call: Call) -> tuple[int, Any]:
        sha = self._find_commit(call["ref"])
        name = call.query.get("check_name")
        rows = [run for run in self.check_runs if run["head_sha"] == sha and name in (None, run["name"])]
        return 200, Rows(rows[::-1], "check_runs")

    @route("POST", f"{_REPOSITORY}/statuses/{{sha}}")
    def create_status(self, call: Call) -> tuple[int, Any]:
        number, now = self.make_id(), self.format_now()
        user = self.site.make_user(self.login)
        status = {
            "id": number,
            "node_id": f"SC_{number}",
            "url": f"{self.site.base}/statuses/{call['sha']}",
            "avatar_url": user["avatar_url"],
            "target_url": None,
            "description": None,
            "context": "default",
            "creator": user,
            "created_at": now,
            "updated_at": now,
        } | call.fields
        self.statuses.append(status)
        return 201, status

    @route("GET", f"{_REPOSITORY}/commits/{{ref}}/statuses")
    def list_statuses(self, call: Call) -> tuple[int, Any]:
        return 200, Rows(self._list_statuses(self._find_commit(call["ref"])))

    @route("GET", f"{_REPOSITORY}/commits/{{ref}}/status")
    def get_combined_status(self, call: Call) -> tuple[int, Any]:
        sha = self._find_commit(call["ref"])
        newest = list({status["context"]: status for status in self._list_statuses(sha)[::-1]}.values())
        states = {status["state"] for status in newest}
        state = "failure" if states & {"failure", "error"} else "success" if states == {"success"} else "pending"
        return 200, {
            "state": state,
            "sha": sha,
            "total_count": len(newest),
            "statuses": [{key: row[key] for key in row if key != "creator"} for row in newest],
            "repository": self.read_repository(),
            "commit_url": f"{self.site.base}/commits/{sha}",
            "url": f"{self.site.base}/commits/{sha}/status",
        }

    # Releases

    @route("POST", f"{_REPOSITORY}/releases")
    def create_release(self, call: Call) -> tuple[int, Any]:
        tag = call.fields["tag_name"]
        if tag in [release["tag_name"] for release in self.releases if not release["draft"]]:
            raise refuse("Release", "already_exists", "tag_name")
        names = ("tag_name", "target_commitish", "name", "body", "draft", "prerelease")
        fields = {name: call.fields[name] for name in names if name in call.fields}
        release = self.site.make_release(self.make_id(), self.login, self.format_now(), **fields)
        self._publish(release)
        self.releases.append(release)
        return 201, release

    @route("GET", f"{_REPOSITORY}/releases")
    def list_releases(self, _call: Call) -> tuple[int, Any]:
        return 200, Rows(self.releases[::-1])

    @route("GET", f"{_REPOSITORY}/releases/latest")
    def get_latest_release(self, _call: Call) -> tuple[int, Any]:
        full = [release for release in self.releases if not (release["draft"] or release["prerelease"])]
        return 200, _find(full[-1:], "draft", False)

    @route("GET", f"{_REPOSITORY}/releases/tags/{{tag}}")
    def get_release_by_tag(self, call: Call) -> tuple[int, Any]:
        return 200, _find([release for release in self.releases if not release["draft"]], "tag_name", call["tag"])

    @route("GET", f"{_REPOSITORY}/releases/{{release_id}}")
    def get_release(self, call: Call) -> tuple[int, Any]:
        return 200, _find(self.releases, "id", int(call["release_id"]))

    @route("PATCH", f"{_REPOSITORY}/releases/{{release_id}}")
    def update_release(self, call: Call) -> tuple[int, Any]:
        release = _find(self.releases, "id", int(call["release_id"]))
        names = ("tag_name", "target_commitish", "name", "body", "draft", "prerelease")
        release |= {name: call.fields[name] for name in names if name in call.fields}
        self._publish(release)
        return 200, release

    # Actions and settings

    @route("GET", f"{_REPOSITORY}/actions/workflows")
    def list_workflows(self, _call: Call) -> tuple[int, Any]:
        return 200, Rows(self.workflows, "workflows")

    @route("GET", f"{_REPOSITORY}/actions/workflows/{{workflow_id}}")
    def get_workflow(self, call: Call) -> tuple[int, Any]:
        return 200, self._find_workflow(call["workflow_id"])

    @route("POST", f"{_REPOSITORY}/actions/workflows/{{workflow_id}}/dispatches")
    def dispatch_workflow(self, call: Call) -> tuple[int, Any]:
        workflow = self._find_workflow(call["workflow_id"])
        if workflow["state"] != "active":
            raise ApiError(422, "Cannot trigger a 'workflow_dispatch' on a disabled workflow")
        ref = call.fields["ref"].removeprefix("refs/").removeprefix("heads/")
        if not (self.refs.get(f"heads/{ref}") or self.refs.get(f"tags/{ref}") or self.refs.get(ref)):
            raise ApiError(422, f"No ref found for: {ref}")
        self.dispatches.append(call.fields | {"workflow": workflow["path"].rpartition("/")[2]})
        if not call.fields.get("return_run_details"):
            return 204, None
        number = self.make_id()
        urls = {
            "run_url": f"{self.site.base}/actions/runs/{number}",
            "html_url": f"{self.site.page}/actions/runs/{number}",
        }
        return 200, {"workflow_run_id": number} | urls

    @route("GET", f"{_REPOSITORY}/actions/permissions/workflow")
    def get_workflow_permissions(self, _call: Call) -> tuple[int, Any]:
        return 200, self.workflow_permissions

    @route("PUT", f"{_REPOSITORY}/actions/permissions/workflow")
    def set_workflow_permissions(self, call: Call) -> tuple[int, Any]:
        self.workflow_permissions |= call.fields
        return 204, None

    @route("GET", f"{_REPOSITORY}/actions/permissions")
    def get_actions_permissions(self, _call: Call) -> tuple[int, Any]:
        return 200, self.actions_permissions

    @route("GET", f"{_REPOSITORY}/actions/secrets")
    def list_secrets(self, _call: Call) -> tuple[int, Any]:
        return 200, Rows([{"name": name} | self._make_dates() for name in self.secrets], "secrets")

    @route("GET", f"{_REPOSITORY}/actions/variables")
    def list_variables(self, _call: Call) -> tuple[int, Any]:
        rows = [{"name": name, "value": value} | self._make_dates() for name, value in self.variables.items()]
        return 200, Rows(rows, "variables")

    @route("GET", f"{_REPOSITORY}/environments")
    def list_environments(self, _call: Call) -> tuple[int, Any]:
        return 200, Rows([self._make_environment(name) for name in self.environments], "environments")

    @route("GET", f"{_REPOSITORY}/environments/{{environment_name}}")
    def get_environment(self, call: Call) -> tuple[int, Any]:
        if call["environment_name"] not in self.environments:
            raise ApiError(404)
        return 200, self._make_environment(call["environment_name"])

    @route("PUT", f"{_REPOSITORY}/environments/{{environment_name}}")
    def set_environment(self, call: Call) -> tuple[int, Any]:
        if call["environment_name"] not in self.environments:
            self.environments.append(call["environment_name"])
        return 200, self._make_environment(call["environment_name"])

    @route("GET", f"{_REPOSITORY}/environments/{{environment_name}}/secrets")
    def list_environment_secrets(self, call: Call) -> tuple[int, Any]:
        if call["environment_name"] not in self.environments:
            raise ApiError(404)
        return 200, Rows([{"name": name} | self._make_dates() for name in self.environment_secrets], "secrets")

    @route("GET", f"{_REPOSITORY}/environments/{{environment_name}}/variables")
    def list_environment_variables(self, call: Call) -> tuple[int, Any]:
        if call["environment_name"] not in self.environments:
            raise ApiError(404)
        return 200, Rows([], "variables")

    @route("POST", f"{_REPOSITORY}/rulesets")
    def create_ruleset(self, call: Call) -> tuple[int, Any]:
        if call.fields["name"] in [ruleset["name"] for ruleset in self.rulesets]:
            raise ApiError(422, "Validation Failed")
        number = self.make_id()
        ruleset = {"id": number, "source": self.site.repository, "source_type": "Repository"} | call.fields
        self.rulesets.append(ruleset)
        self.rules += [rule["type"] for rule in call.fields["rules"]]
        return 201, ruleset

    def _make_environment(self, name: str) -> Row:
        number = self.environments.index(name) + 1
        return {
            "id": number,
            "node_id": f"EN_{number}",
            "name": name,
            "url": f"{self.site.base}/environments/{name}",
            "html_url": f"{self.site.page}/deployments/activity_log?environments_filter={name}",
            "protection_rules": [],
        } | self._make_dates()

    @route("GET", f"{_REPOSITORY}/branches/{{branch}}/protection")
    def get_protection(self, call: Call) -> tuple[int, Any]:
        if self.refs.get(f"heads/{call['branch']}") is None:
            raise ApiError(404, "Branch not found")
        if self.protection is None or call["branch"] != self.default_branch:
            raise ApiError(404, "Branch not protected")
        return 200, {"url": f"{self.site.base}/branches/{call['branch']}/protection"} | self.protection

    @route("GET", f"{_REPOSITORY}/rules/branches/{{branch}}")
    def list_rules(self, call: Call) -> tuple[int, Any]:
        source = {"ruleset_source_type": "Repository", "ruleset_source": self.site.repository, "ruleset_id": 1}
        kinds = self.rules if call["branch"] == self.default_branch else []
        return 200, Rows([{"type": kind} | source for kind in kinds])

    @route("GET", "/user")
    def get_user(self, _call: Call) -> tuple[int, Any]:
        if self.login.endswith("[bot]"):
            raise ApiError(403, "Resource not accessible by integration")
        return 200, self.site.make_public_user(self.login, self.format_now())

    @route("GET", "/users/{username}")
    def get_public_user(self, call: Call) -> tuple[int, Any]:
        return 200, self.site.make_public_user(call["username"], self.format_now())

    @route("GET", "/rate_limit")
    def get_rate_limit(self, _call: Call) -> tuple[int, Any]:
        limit = {"limit": 5000, "remaining": 4999, "reset": 4_000_000_000, "used": 1}
        return 200, {"resources": {"core": limit, "search": limit, "graphql": limit}, "rate": limit}

    def _complete(self, run: Row) -> Row:
        if run["conclusion"]:
            run["status"] = "completed"
            run["completed_at"] = run["completed_at"] or self.format_now()
        return run

    def _find_commit(self, name: str) -> str:
        """The commit of a branch, a tag or a SHA; one that nobody knows may have been made up by a test."""
        sha = self.refs.find_commit(name) or (name if len(name) == len(make_sha("")) else None)
        if sha is None:
            raise ApiError(404)
        return sha

    def _list_statuses(self, sha: str) -> list[Row]:
        """Newest first."""
        return [status for status in self.statuses[::-1] if status["url"].endswith(sha)]

    def _publish(self, release: Row) -> None:
        """Make the tag, as GitHub does unless the release is a draft."""
        tag = f"tags/{release['tag_name']}"
        if release["draft"]:
            return
        release["published_at"] = release["published_at"] or self.format_now()
        if self.refs.get(tag) is None:
            sha = self.refs.find_commit(release["target_commitish"])
            if sha is None:
                raise refuse("Release", "invalid", "target_commitish")
            self.refs.set(tag, sha)

    def _find_workflow(self, name: str) -> Row:
        for row in self.workflows:
            if name in (str(row["id"]), row["path"].rpartition("/")[2]):
                return row
        raise ApiError(404)

    def _make_dates(self) -> Row:
        return dict.fromkeys(("created_at", "updated_at"), self.format_now())


def _find(rows: list[Row], key: str, value: Any) -> Row:
    for row in rows:
        if row[key] == value:
            return row
    raise ApiError(404)
