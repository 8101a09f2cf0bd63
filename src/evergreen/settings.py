"""The environment: where things are and who may reach them. Numbers that a stage reads are in `params.yaml`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from the environment and from `.env`; the defaults need no service."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    state_dir: Path = Field(Path(".evergreen"), alias="EVERGREEN_STATE_DIR")
    """Checkpoints, the tracking outbox and the default databases; never committed."""
    mlflow_tracking_uri: str | None = Field(None, alias="MLFLOW_TRACKING_URI")
    mlflow_experiment: str = Field("evergreen", alias="MLFLOW_EXPERIMENT_NAME")
    tracking_timeout: float = Field(3.0, alias="EVERGREEN_TRACKING_TIMEOUT", gt=0)
    """Seconds that an unreachable tracking server may cost."""
    s3_endpoint_url: str | None = Field(None, alias="AWS_ENDPOINT_URL")
    log_level: str = Field("warning", alias="EVERGREEN_LOG_LEVEL", pattern="(?i)^(debug|info|warning|error)$")

    @property
    def tracking_uri(self) -> str:
        """The MLflow server, or a SQLite file under `state_dir`."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state_dir.resolve() / 'mlflow.db'}"
