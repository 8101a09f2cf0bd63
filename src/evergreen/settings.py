"""The environment: where things are and who may reach them. Numbers that a stage reads are in `params.yaml`."""

from pathlib import Path
from typing import Literal, Self

from dotenv import load_dotenv
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings

from evergreen.errors import EvergreenError


class SettingsError(EvergreenError):
    """An environment variable can't be used; the message names it and what is allowed."""

    exit_code = 2


class Settings(BaseSettings):
    """Read from the environment; the defaults need no service."""

    state_dir: Path = Field(Path(".evergreen"), alias="EVERGREEN_STATE_DIR")
    """Checkpoints, the tracking outbox and the default databases; never committed."""
    mlflow_tracking_uri: str | None = Field(None, alias="MLFLOW_TRACKING_URI")
    mlflow_experiment: str = Field("evergreen", alias="MLFLOW_EXPERIMENT_NAME")
    tracking_timeout: float = Field(3.0, alias="EVERGREEN_TRACKING_TIMEOUT", gt=0)
    """Seconds to wait for a connection to the tracking server; a request may take ten times as long."""
    s3_endpoint_url: str | None = Field(None, alias="AWS_ENDPOINT_URL")
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", alias="EVERGREEN_LOG_LEVEL")

    @classmethod
    def load(cls) -> Self:
        """Read the environment, after adding to it what only `.env` names, so that libraries see that too.

        Raises:
            SettingsError: naming each wrong variable with its value and what is allowed.
        """
        try:
            load_dotenv(".env")
        except UnicodeDecodeError as error:
            raise SettingsError(".env: not UTF-8. Save the file as UTF-8.") from error
        try:
            return cls()
        except ValidationError as error:
            wrong = [f"{problem['loc'][0]}: {problem['input']!r}. {problem['msg']}" for problem in error.errors()]
            raise SettingsError("; ".join(wrong) + ". Correct the environment or .env.") from error

    @field_validator("log_level", mode="before")
    @classmethod
    def _ignore_case(cls, level: str) -> str:
        return level.lower()

    @property
    def tracking_uri(self) -> str:
        """The MLflow server, or a SQLite file under `state_dir`."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state_dir.resolve() / 'mlflow.db'}"
