"""The environment: where things are and who may reach them. Numbers that a stage reads are in `params.yaml`."""

from pathlib import Path
from typing import Any, Literal, Self

from dotenv import load_dotenv
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from evergreen.errors import EvergreenError


class SettingsError(EvergreenError):
    """An environment variable can't be used; the message names it and what is allowed."""

    exit_code = 2


class _Environment(BaseSettings):
    """Read from the environment, with one message for all that is wrong."""

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the environment, after adding to it what only `.env` names, so that libraries see that too.

        Args:
            given: values that come before the environment's.

        Raises:
            SettingsError: naming each wrong variable with its value and what is allowed.
        """
        try:
            load_dotenv(".env")
        except UnicodeDecodeError as error:
            raise SettingsError(".env: not UTF-8. Save the file as UTF-8.") from error
        try:
            return cls(**given)
        except ValidationError as error:
            wrong = [
                f"{cls._name_variable(str(problem['loc'][0]))}: {problem['input']!r}. {problem['msg']}"
                for problem in error.errors()
            ]
            raise SettingsError("; ".join(wrong) + ". Correct the environment or .env.") from error

    @classmethod
    def _name_variable(cls, field: str) -> str:
        return f"{cls.model_config['env_prefix']}{field.upper()}" if field in cls.model_fields else field


class Settings(_Environment):
    """What every command may need; the defaults need no service."""

    state_dir: Path = Field(Path(".evergreen"), alias="EVERGREEN_STATE_DIR")
    """Checkpoints, the tracking outbox and the default databases; never committed."""
    mlflow_tracking_uri: str | None = Field(None, alias="MLFLOW_TRACKING_URI")
    mlflow_experiment: str = Field("evergreen", alias="MLFLOW_EXPERIMENT_NAME")
    tracking_timeout: float = Field(3.0, alias="EVERGREEN_TRACKING_TIMEOUT", gt=0)
    """Seconds to wait for a connection to the tracking server; a request may take ten times as long."""
    s3_endpoint_url: str | None = Field(None, alias="AWS_ENDPOINT_URL")
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", alias="EVERGREEN_LOG_LEVEL")
    database_url: str | None = Field(None, alias="DATABASE_URL")
    """Of the prediction log, as SQLAlchemy writes it: postgresql+psycopg://USER:PASSWORD@HOST/NAME."""
    log_text: Literal["cleaned", "hash", "none"] = Field("cleaned", alias="EVERGREEN_LOG_TEXT")
    """What the prediction log keeps of a text."""
    log_retention_days: int = Field(90, alias="EVERGREEN_LOG_RETENTION_DAYS", ge=1)
    log_unavailable: Literal["refuse", "spool"] = Field("refuse", alias="EVERGREEN_LOG_UNAVAILABLE")
    """While the log can't be written: refuse requests, or answer and keep their rows in files until it can."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _ignore_case(cls, level: str) -> str:
        return level.lower()

    @property
    def tracking_uri(self) -> str:
        """The MLflow server, or a SQLite file under `state_dir`."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state_dir.resolve() / 'mlflow.db'}"

    @property
    def log_url(self) -> str:
        """The database of the prediction log, or a SQLite file under `state_dir`."""
        return self.database_url or f"sqlite:///{self.state_dir.resolve() / 'predictions.db'}"


class ServingSettings(_Environment):
    """What `evergreen serve` needs beside them."""

    model_config = SettingsConfigDict(env_prefix="EVERGREEN_")

    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1"  # noqa: S104 - a choice, not the default
    port: int = Field(8000, ge=1024, le=65535)
    workers: int | None = Field(None, ge=1)
    """Processes that predict, one thread each; None: one for each processor."""
    lone_threads: int = Field(2, ge=1)
    """Threads for a text that comes while all workers are idle: the other processors have nothing else to do then."""
    batch_size: int = Field(16, ge=1)
    """Texts that a worker predicts together."""
    request_timeout: float = Field(30.0, gt=0)
    """Seconds after which a request is given up; also how long a stop waits for open ones."""
    body_timeout: float = Field(15.0, gt=0)
    """Seconds in which a client must have sent a request's next part."""
    max_texts: int = Field(64, ge=1)
    max_characters: int = Field(20_000, ge=1)
    """Of a text."""
    max_body_bytes: int = Field(2 << 20, ge=1024)
    """Of any request but an upload."""
    max_upload_bytes: int = Field(256 << 20, ge=1024)
    max_queue: int = Field(512, ge=1)
    """Texts that may wait; further requests are told to come back."""
    max_jobs: int = Field(16, ge=1)
    """Batches and videos that may wait or run."""
    job_priority: Literal["idle", "normal"] = "idle"
    """Idle: jobs run only while nothing else wants the processors; a server that is never quiet never ends them."""
    max_job_memory_mb: int = Field(4096, ge=256)
    """A file made to fill the memory fails its job, not the machine."""
    job_timeout: float = Field(6 * 3600.0, gt=0)
    """Seconds after which a job is given up."""
    job_retention_days: float = Field(7.0, gt=0)
    drain_seconds: float = Field(1.0, ge=0)
    """How long a server that is told to stop still takes new connections, so that none is cut while it is noticed."""
    api_keys: str = ""
    """NAME:SHA256 of each key, separated by commas; empty, with no file either: no key is asked for."""
    api_keys_file: Path | None = None
    """The same, one a line."""
    allow_anonymous: bool = False
    """Serve other machines without keys as well."""
    rate_limit: str = ""
    """Requests that a key may make, as 100/second or 5000/hour; empty: no limit."""
    cors_origins: str = ""
    """Web pages that may call from a browser, separated by commas; empty: none."""


class GitHubSettings(_Environment):
    """The repository at GitHub. Actions sets these variables, except for the token."""

    github_token: SecretStr = Field(SecretStr(""), alias="GITHUB_TOKEN")
    github_repository: str = Field("", alias="GITHUB_REPOSITORY", pattern=r"^([\w.-]+/[\w.-]+)?$")
    github_api_url: str = Field("https://api.github.com", alias="GITHUB_API_URL", pattern=r"^https?://[^\s/@]+(/\S*)?$")
    """https://HOST/api/v3 on an enterprise host."""
    github_server_url: str = Field("", alias="GITHUB_SERVER_URL", pattern=r"^(https?://[^\s/@]+/?)?$")
    """Where people read; by default the API's host without its prefix."""
    github_run_id: str = Field("", alias="GITHUB_RUN_ID", pattern=r"^\d*$")

    @property
    def has_github(self) -> bool:
        """Whether there is a repository, and a token to work in it with."""
        return bool(self.github_token.get_secret_value() and self.github_repository)

    @property
    def repository_url(self) -> str:
        """The repository's page; empty where no repository is named."""
        if not self.github_repository:
            return ""
        server = self.github_server_url.rstrip("/")
        if not server:
            api = self.github_api_url.rstrip("/")
            server = "https://github.com" if api == "https://api.github.com" else api.removesuffix("/api/v3")
        return f"{server}/{self.github_repository}"

    @property
    def run_url(self) -> str:
        """The page of the workflow run that this is part of; empty outside one."""
        repository = self.repository_url
        return f"{repository}/actions/runs/{self.github_run_id}" if repository and self.github_run_id else ""


class AlertSettings(GitHubSettings):
    """Whom `evergreen alert` tells; the token needs `issues: write`, and without one there is no issue."""

    alert_urls: SecretStr = Field(SecretStr(""), alias="EVERGREEN_ALERT_URLS")
    """Apprise URLs, separated by spaces or newlines: mail, Slack, Teams, PagerDuty, …; they hold passwords."""

    @property
    def urls(self) -> list[str]:
        """The Apprise URLs."""
        return self.alert_urls.get_secret_value().split()


class RetrainingSettings(GitHubSettings):
    """How `evergreen retrain` proposes; the token needs `contents`, `pull_requests` and `issues: write`."""

    pull_requests: Literal["auto", "cml", "rest"] = Field("auto", alias="EVERGREEN_PULL_REQUESTS")
    """Who opens pull requests and writes comments: CML, or the REST API itself; auto: CML where it is on PATH."""
    checkpoints_url: str = Field("", alias="EVERGREEN_CHECKPOINTS_URL")
    """Where checkpoints are kept for a runner that may be taken away: s3://BUCKET/FOLDER, or a folder."""


class ReleaseSettings(GitHubSettings):
    """How `evergreen release` works; the token needs `contents: write`. Actions sets all but the key."""

    api_key: SecretStr = Field(SecretStr(""), alias="EVERGREEN_API_KEY")
    """For the server that is asked; empty: it asks for none."""
    service_url: str = Field("", alias="SERVICE_URL", pattern=r"^(https?://[^\s/@]+/?)?$")
    """Where callers reach the service that is deployed to."""
    github_event_name: str = Field("", alias="GITHUB_EVENT_NAME")
    github_ref_type: str = Field("", alias="GITHUB_REF_TYPE")
    github_ref_name: str = Field("", alias="GITHUB_REF_NAME")
    github_workflow_ref: str = Field("", alias="GITHUB_WORKFLOW_REF", pattern=r"^[\w./@+-]*$")

    @property
    def pushed_tag(self) -> str:
        """The Git tag whose push started the workflow; empty where something else did."""
        return self.github_ref_name if self.github_ref_type == "tag" else ""

    @property
    def is_manual(self) -> bool:
        """Whether somebody started the workflow by hand."""
        return self.github_event_name == "workflow_dispatch"

    @property
    def signer(self) -> str:
        """The workflow's identity, as a keyless signature names it."""
        if self.github_workflow_ref:
            return f"{self.repository_url.removesuffix(self.github_repository)}{self.github_workflow_ref}"
        return f"{self.repository_url}/.github/workflows/release.yml@refs/heads/main"


class ActionsSettings(_Environment):
    """Files that GitHub Actions gives a step."""

    github_output: Path | None = Field(None, alias="GITHUB_OUTPUT")
    github_step_summary: Path | None = Field(None, alias="GITHUB_STEP_SUMMARY")
