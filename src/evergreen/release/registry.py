"""MLflow's registry: the alias `champion` names the version that was released."""

from dataclasses import dataclass

from evergreen.logs import redact
from evergreen.release.golden import ServedModel
from evergreen.settings import Settings

ALIAS = "champion"


@dataclass(frozen=True)
class AliasResult:
    """What became of the alias.

    Attributes:
        moved: whether it names the released version now, or did before.
        message: for people.
    """

    moved: bool
    message: str


def move_champion(model: ServedModel, settings: Settings) -> AliasResult:
    """Let the alias of a registered model name the version that was made of a bundle's run.

    A registry that is unavailable, or does not know the version, fails no release: the result says so.

    Args:
        model: the bundle's.
        settings: where MLflow is.
    """
    name = f"evergreen-{model.name}"
    if settings.mlflow_tracking_uri is None and not (settings.state_dir / "mlflow.db").is_file():
        return AliasResult(False, f"{name}: no registry here. Set MLFLOW_TRACKING_URI, then finish again.")
    try:
        return _move(name, model, settings)
    except Exception as error:  # whatever the server or the network does, the release stands
        reason = redact(" ".join(f"{type(error).__name__}: {error}".split())[:300])
        return AliasResult(False, f"{name}: the registry can't be used ({reason}). Finish again once it can.")


def _move(name: str, model: ServedModel, settings: Settings) -> AliasResult:
    import mlflow  # noqa: PLC0415 - takes seconds
    from mlflow.environment_variables import (  # noqa: PLC0415
        MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        MLFLOW_HTTP_REQUEST_TIMEOUT,
    )

    # It would retry for minutes by default.
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
    MLFLOW_HTTP_REQUEST_TIMEOUT.set(max(1, round(settings.tracking_timeout * 10)))
    client = mlflow.MlflowClient(settings.tracking_uri)
    versions = client.search_model_versions(f"name = '{name}'")
    match = next((version for version in versions if version.tags.get("evergreen.run") == model.run), None)
    if match is None:
        return AliasResult(
            False, f"{name}: no version of run {model.run[:12]}. Send it (evergreen runs send), then finish again."
        )
    registered = client.get_registered_model(name)
    if str(registered.aliases.get(ALIAS, "")) == str(match.version):
        return AliasResult(True, f"{name}: version {match.version} is {ALIAS} already")
    client.set_registered_model_alias(name, ALIAS, str(match.version))
    return AliasResult(True, f"{name}: version {match.version} is {ALIAS} now")
