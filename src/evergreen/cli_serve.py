"""`evergreen serve` and `evergreen keys`: the server, and who may ask it."""

from pathlib import Path
from typing import Annotated

import typer

from evergreen.settings import MAX_PORT, MIN_PORT, Host, ServingSettings, Settings

keys_app = typer.Typer(
    help="Create API keys for the server.", epilog="Example: evergreen keys create web", no_args_is_help=True
)


def serve(
    host: Annotated[
        Host | None,
        typer.Option(help="Address to listen on; by default EVERGREEN_HOST, else 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=MIN_PORT, max=MAX_PORT, help="By default EVERGREEN_PORT, else 8000.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that predict; by default EVERGREEN_WORKERS, else one for each processor."),
    ] = None,
    bundle: Annotated[Path, typer.Option(help="Folder of the text bundle.")] = Path("models/text"),
    video: Annotated[Path, typer.Option(help="Folder of the video bundle; it may be missing.")] = Path("models/video"),
    reports: Annotated[Path, typer.Option(help="Folder of the monitor's reports.")] = Path("reports/monitoring"),
) -> None:
    """Serve the bundles: live, batch and video, with a page to try them.

    SIGTERM and Ctrl-C stop it once open requests are answered; SIGHUP takes up a new text bundle.
    """
    given = {"host": host, "port": port, "workers": workers}
    serving = ServingSettings.load(**{name: value for name, value in given.items() if value is not None})

    from evergreen.serving import server  # noqa: PLC0415 - imports LitServe

    typer.echo(f"Serving on http://{serving.host}:{serving.port}, stop with Ctrl-C", err=True)
    server.serve(Settings.load(), serving, bundle, video, reports)


@keys_app.command("create", epilog="Example: evergreen keys create web >> keys.txt")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is; logs and metrics show this name.")],
) -> None:
    """Create a key: the entry for the server on standard output, the key itself on standard error, this once."""
    from evergreen.serving.security import create_key as create  # noqa: PLC0415 - for this command only

    key, entry = create(name)
    typer.echo(entry)
    typer.echo(f"Key, shown this once: {key}", err=True)
    typer.echo("The server reads entries from EVERGREEN_API_KEYS, or from the file EVERGREEN_API_KEYS_FILE.", err=True)
