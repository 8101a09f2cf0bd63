"""The environment: where things are and who may reach them. Numbers that a stage reads are in `params.yaml`."""

import codecs
import io
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import load_dotenv
from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from evergreen.errors import EvergreenError


class SettingsError(EvergreenError):
    """An environment variable can't be used; the message names it and what is allowed."""

    exit_code = 2


Host = Literal["127.0.0.1", "0.0.0.0", "::"]  # noqa: S104 - a choice, not the default
MIN_PORT, MAX_PORT = 1024, 65535
"""Of the server; lower ones want rights that it should not have."""
_CHOOSE = "Set it to a folder that you may write."
_HOME = re.compile(r"(?:(sqlite(?:\+\w+)?:///)|(file://)/?)?(~.*)")


def _expand_home(path: Path) -> Path:
    # A shell replaces ~ where somebody types it, but neither in .env nor in what a container is given.
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError("There is no such home folder") from error


def _expand_address(address: str) -> str:
    if match := _HOME.fullmatch(address):
        database, file, path = match.groups()
        return f"{database or file or ''}{_expand_home(Path(path))}"
    return address


HomePath = Annotated[Path, AfterValidator(_expand_home)]
"""A path in which ~ is the home folder."""
HomeAddress = Annotated[str, AfterValidator(_expand_address)]
"""An address that may be a path, or a SQLite file's, in which ~ is the home folder."""


class _Environment(BaseSettings):
    """Read from the environment, with one message for all that is wrong; a variable that is empty counts as unset."""

    model_config = SettingsConfigDict(env_ignore_empty=True, allow_inf_nan=False)

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the environment, after adding to it what only `.env` names, so that libraries see that too.

        Args:
            given: values that come before the environment's.

        Raises:
            SettingsError: naming each wrong variable with its value and what is allowed, or for a `.env` that can't
                be read.
        """
        _load_dotenv(Path(".env"))
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


def _load_dotenv(file: Path) -> None:
    """Add to the environment what only this file names; it may be absent."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}. Make it a file that you may read, or remove it.") from error
    # Windows' editors and PowerShell's > write UTF-16, and some a mark before UTF-8.
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not UTF-8. Save the file as UTF-8.") from error
    if "\0" in text:
        raise SettingsError(f"{file}: holds NUL characters. Save the file as UTF-8.")
    try:
        load_dotenv(stream=io.StringIO(text, newline=None))
    except ValueError as error:  # a name that no variable can have
        raise SettingsError(f"{file}: {error}. Write NAME=VALUE, one a line.") from error


def explain_unwritable(folder: Path) -> str | None:
    """Say why nothing can be written to a folder, or to the one that it would be made in; None when it can."""
    folder = folder.absolute()
    nearest = next(path for path in [folder, *folder.parents] if os.path.lexists(path))
    if not nearest.is_dir():
        return f"{nearest} is a link to nothing" if nearest.is_symlink() else f"{nearest} is a file"
    try:
        # Tried, since permissions say nothing of a read-only disk, and nothing to root; it leaves no trace.
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        return f"{nearest} is not writable: {error.strerror}"
    return None


class Settings(_Environment):
    """What every command may need; the defaults need no service."""

    state_dir: HomePath = Field(Path(".evergreen"), alias="EVERGREEN_STATE_DIR")
    """Checkpoints, the tracking outbox and the default databases; never committed."""
    mlflow_tracking_uri: HomeAddress | None = Field(None, alias="MLFLOW_TRACKING_URI")
    mlflow_experiment: str = Field("evergreen", alias="MLFLOW_EXPERIMENT_NAME")
    tracking_timeout: float = Field(3.0, alias="EVERGREEN_TRACKING_TIMEOUT", gt=0, le=3600)
    """Seconds in which a tracking server must answer at all; a stage sends to one that does for ten times as long."""
    s3_endpoint_url: str | None = Field(None, alias="AWS_ENDPOINT_URL")
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", alias="EVERGREEN_LOG_LEVEL")
    database_url: HomeAddress | None = Field(None, alias="DATABASE_URL")
    """Of the prediction log, as SQLAlchemy writes it: postgresql+psycopg://USER:PASSWORD@HOST/NAME."""
    log_text: Literal["cleaned", "hash", "none"] = Field("cleaned", alias="EVERGREEN_LOG_TEXT")
    """What the prediction log keeps of a text."""
    log_retention_days: int = Field(90, alias="EVERGREEN_LOG_RETENTION_DAYS", ge=1, le=36_500)
    log_unavailable: Literal["refuse", "spool"] = Field("refuse", alias="EVERGREEN_LOG_UNAVAILABLE")
    """While the log can't be written: refuse requests, or answer and keep their rows in files until it can."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _ignore_case(cls, level: str) -> str:
        return level.lower()

    def check_state_dir(self) -> None:
        """Check that files can be written to `state_dir`, before work that would end there in vain.

        Raises:
            SettingsError: when they can't.
        """
        if reason := explain_unwritable(self.state_dir):
            raise SettingsError(f"EVERGREEN_STATE_DIR: {self.state_dir} can't be used ({reason}). {_CHOOSE}")

    @property
    def tracking_uri(self) -> str:
        """The MLflow server, or a SQLite file under `state_dir`."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state_dir.resolve() / 'mlflow.db'}"

    @property
    def log_url(self) -> str:
        """The database of the prediction log, or a SQLite file under `state_dir`."""
        return self.database_url or f"sqlite:///{self.state_dir.resolve() / 'predictions.db'}"


def check_cache() -> None:
    """Check that Hugging Face's libraries can write their cache, which a training does.

    Raises:
        SettingsError: when they can't.
    """
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(home, "datasets"))
    with suppress(RuntimeError):  # without that home, they make a folder named ~ themselves
        cache = cache.expanduser()
    if reason := explain_unwritable(cache):
        raise SettingsError(f"HF_HOME: {cache} can't be used ({reason}). {_CHOOSE}")


class ServingSettings(_Environment):
    """What `evergreen serve` needs beside them."""

    model_config = SettingsConfigDict(env_prefix="EVERGREEN_")

    host: Host = "127.0.0.1"
    port: int = Field(8000, ge=MIN_PORT, le=MAX_PORT)
    workers: int | None = Field(None, ge=1)
    """Processes that predict, one thread each; None: one for each processor."""
    lone_threads: int = Field(2, ge=1)
    """Threads for a text that comes while all workers are idle: the other processors have nothing else to do then."""
    batch_size: int = Field(16, ge=1)
    """Texts that a worker predicts together."""
    request_timeout: float = Field(30.0, gt=0, le=86_400)
    """Seconds after which a request is given up; also how long a stop waits for open ones."""
    body_timeout: float = Field(15.0, gt=0, le=86_400)
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
    job_timeout: float = Field(6 * 3600.0, gt=0, le=31 * 86_400)
    """Seconds after which a job is given up."""
    job_retention_days: float = Field(7.0, gt=0, le=36_500)
    drain_seconds: float = Field(1.0, ge=0, le=3600)
    """How long a server that is told to stop still takes new connections, so that none is cut while it is noticed."""
    api_keys: str = ""
    """NAME:SHA256 of each key, separated by commas; empty, with no file either: no key is asked for."""
    api_keys_file: HomePath | None = None
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
    checkpoints_url: HomeAddress = Field("", alias="EVERGREEN_CHECKPOINTS_URL")
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

    github_output: HomePath | None = Field(None, alias="GITHUB_OUTPUT")
    github_step_summary: HomePath | None = Field(None, alias="GITHUB_STEP_SUMMARY")
