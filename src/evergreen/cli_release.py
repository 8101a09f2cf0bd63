"""`evergreen release`: from a merged bundle to a verified deployment; each command is a step of release.yml."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.actions import add_summary, set_output
from evergreen.errors import EvergreenError
from evergreen.settings import AlertSettings, ReleaseSettings, Settings

if TYPE_CHECKING:
    from evergreen.release.golden import GoldenSet
    from evergreen.release.measurement import Measurement
    from evergreen.release.server import Server

FOLDER = Path("reports/release")
_Url = Annotated[
    str, typer.Argument(metavar="URL", help="Address of the server; by default SERVICE_URL.", show_default=False)
]
_Golden = Annotated[Path, typer.Option(help="What evergreen release golden wrote.")]
_Minutes = Annotated[
    float | None,
    typer.Option(help="How long; by default release.watch_minutes of params.yaml.", min=0.01, show_default=False),
]

app = typer.Typer(
    help="Release the bundles: plan, check, test, measure, verify, finish.",
    epilog="Example: evergreen release plan",
    no_args_is_help=True,
)


@app.command(epilog="Example: evergreen release plan --ref v1.4.0")
def plan(
    ref: Annotated[str, typer.Option(help="Git revision to release.")] = "HEAD",
    registry: Annotated[str, typer.Option(help="Host of the registry.")] = "ghcr.io",
) -> None:
    """Compare the bundles that dvc.lock names with the last release's, and name what would be released."""
    from evergreen.release.lock import Bundles, Commit  # noqa: PLC0415 - imports for this command only
    from evergreen.release.plan import make_plan  # noqa: PLC0415
    from evergreen.release.releases import NO_REPOSITORY, Releases  # noqa: PLC0415

    settings = ReleaseSettings.load()
    commit = Commit.of(ref)
    bundles = Bundles.of(ref)
    releases = Releases(settings).find() if settings.has_github else []
    made = make_plan(commit, bundles, releases, settings, registry)
    for name in ("release", "proceed"):  # proceed as of `retrain check`
        set_output(name, made.proceed)
    for name in ("tag", "image", "monitor_image", "previous"):
        set_output(name, getattr(made, name))
    add_summary(made.reason)
    if not settings.has_github:
        print(f"compared with no release: {NO_REPOSITORY}")
    print(f"{made.reason}\nrelease:  {'yes' if made.proceed else 'no'}\ntag:      {made.tag}")
    print(f"text:     {bundles.text}\nvideo:    {bundles.video}\nprevious: {made.previous or 'none'}")


@app.command(epilog="Example: dvc pull && evergreen release check")
def check() -> None:
    """Check that the bundles on disk are whole, what dvc.lock names, and made from the data beside them."""
    from evergreen.release.lock import check_bundles  # noqa: PLC0415 - as above

    print("\n".join(check_bundles()))


@app.command(epilog="Example: evergreen release golden --out reports/release/golden.json")
def golden(
    out: Annotated[Path, typer.Option(help="File for the golden set; it holds texts.")] = FOLDER / "golden.json",
) -> None:
    """Write the golden set: test texts, evenly by label, with the predictions that a server must give as well."""
    from evergreen.params import Params  # noqa: PLC0415 - as above
    from evergreen.release.golden import make_golden_set  # noqa: PLC0415

    made = make_golden_set(Params.load())
    made.save(out)
    print(f"{len(made.samples)} texts with the answers of {made.text_model} in {out}")


@app.command(epilog="Example: evergreen release smoke http://127.0.0.1:8000")
def smoke(
    url: _Url = "",
    golden: _Golden = FOLDER / "golden.json",
    batch: Annotated[bool, typer.Option("--batch/--no-batch", help="Send the golden texts as a batch as well.")] = True,
) -> None:
    """Test a running server: whether it serves the release's model, the golden texts live and as a batch, and metrics.

    EVERGREEN_API_KEY is sent where it is set.
    """
    from evergreen.params import Params  # noqa: PLC0415 - as above
    from evergreen.release.smoke import smoke as run_smoke  # noqa: PLC0415

    expected = _load_golden(golden)
    with _open_server(url) as server:
        print(run_smoke(server, expected, Params.load().release, batch))


@app.command(epilog="Example: evergreen release measure https://reviews.example.org --minutes 5")
def measure(
    url: _Url = "",
    minutes: _Minutes = None,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = FOLDER / "before.json",
    golden: _Golden = FOLDER / "golden.json",
) -> None:
    """Measure requests, errors and p99 of the version that runs, with probes where callers send too few.

    Where nothing answers yet, as before the first deployment, it says so and leaves no file.
    """
    from evergreen.params import Params  # noqa: PLC0415 - as above
    from evergreen.release.measurement import check_duration  # noqa: PLC0415
    from evergreen.release.measurement import measure as run_measurement  # noqa: PLC0415
    from evergreen.release.server import ServerError  # noqa: PLC0415

    params = Params.load().release
    seconds = 60 * (minutes or params.watch_minutes)
    check_duration(seconds, params)
    texts = _load_golden(golden).texts
    out.unlink(missing_ok=True)  # of an earlier release, it would be compared with
    with _open_server(url) as server:
        try:
            server.wait_until_ready(0)
        except ServerError as error:
            if not error.is_down:
                raise
            print(f"nothing to measure: {error}")
            return
        result = run_measurement(server, texts, params, seconds)
    _report(result)
    result.save(out)


@app.command(epilog="Example: evergreen release verify https://reviews.example.org --minutes 5")
def verify(
    url: _Url = "",
    golden: _Golden = FOLDER / "golden.json",
    before: Annotated[
        Path, typer.Option(help="What evergreen release measure wrote of the version before; may be missing.")
    ] = FOLDER / "before.json",
    minutes: _Minutes = None,
    out: Annotated[Path, typer.Option(help="File for the result.")] = FOLDER / "verification.json",
) -> None:
    """Verify a release in place: exit code 0 (it holds) or 5 (it does not, or nobody can see that: roll back).

    It must answer as its bundle does, with no more errors or delay than before, by release.* of params.yaml.
    """
    from evergreen.params import Params  # noqa: PLC0415 - as above
    from evergreen.release.measurement import check_duration  # noqa: PLC0415
    from evergreen.release.verification import ROLL_BACK, load_before  # noqa: PLC0415
    from evergreen.release.verification import verify as run_verification  # noqa: PLC0415

    params = Params.load().release
    seconds = 60 * (minutes or params.watch_minutes)
    check_duration(seconds, params)
    expected, earlier = _load_golden(golden), load_before(before)
    if earlier is None:
        print(f"{before}: no measurement of a version before, so only absolute limits hold")
    with _open_server(url) as server:
        result = run_verification(server, expected, earlier, params, seconds)
    result.save(out)
    lines = [f"{'passed' if each.passed else 'FAILED'}: {each.name}: {each.message}" for each in result.checks]
    verdict = "The release holds." if result.passed else "The release does not hold: roll back."
    add_summary("\n".join([f"**{verdict}**", "", *(f"- {line}" for line in lines)]))
    print("\n".join([*lines, verdict]))
    if not result.passed:
        raise typer.Exit(ROLL_BACK)


@app.command(epilog="Example: evergreen release finish --tag v1.4.0 --image ghcr.io/acme/reviews@sha256:… --verified")
def finish(
    tag: Annotated[str, typer.Option(help="Git tag of the release.")],
    image: Annotated[str, typer.Option(help="The image by its digest: NAME@sha256:….")],
    verified: Annotated[bool, typer.Option("--verified", help="The release was verified in place.")] = False,
    golden: _Golden = FOLDER / "golden.json",
) -> None:
    """Write the release's notes, move MLflow's alias `champion`, close the incident; again, it changes nothing."""
    from evergreen.release.finish import check_names, close_incident, describe_model, publish  # noqa: PLC0415 - as above
    from evergreen.release.registry import move_champion  # noqa: PLC0415

    check_names(tag, image)
    settings = Settings.load()
    model = describe_model(golden)
    published = publish(ReleaseSettings.load(), tag, image, verified, model)
    print(f"release: {published.url}")
    if model is None:
        print(f"warning: no alias was moved, since there is no bundle here and no {golden}")
    for bundle in (model.text_model, model.video_model) if model else ():
        if bundle is not None and bundle.name in published.changed:
            result = move_champion(bundle, settings)
            print(result.message if result.moved else f"warning: {result.message}")
    closed = close_incident(AlertSettings.load(), settings.state_dir, tag, verified)
    print(closed.message)
    if closed.problems:
        raise EvergreenError("\n".join(closed.problems))


def _open_server(url: str) -> "Server":
    from evergreen.release.server import Server  # noqa: PLC0415 - as above

    settings = ReleaseSettings.load()
    address = url or settings.service_url
    if not address.startswith(("http://", "https://")):
        raise typer.BadParameter("give http://… or https://…, or set SERVICE_URL", param_hint="'URL'")
    return Server(address, settings.api_key)


def _load_golden(file: Path) -> "GoldenSet":
    from evergreen.release.golden import load_golden_set  # noqa: PLC0415 - as above

    return load_golden_set(file)


def _report(result: "Measurement") -> None:
    add_summary(str(result))
    print(result)
