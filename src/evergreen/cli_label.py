"""`evergreen label`: what people are asked to label, and the labels that come back from them."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.cli_times import FORMATS, METAVAR, add_zone
from evergreen.settings import Settings

if TYPE_CHECKING:
    from evergreen.monitoring.label_tasks import RejectedRow

_SHOWN = 20
_Bundle = Annotated[Path, typer.Option(help="Folder of the champion's bundle.")]

app = typer.Typer(
    help="Choose what people label, and import their labels.",
    epilog="Example: evergreen label select --budget 200",
    no_args_is_help=True,
)


@app.command(epilog="Example: evergreen label select --budget 200 --out tasks.json")
def select(
    budget: Annotated[int, typer.Option(min=1, help="How many predictions to label.")],
    out: Annotated[Path, typer.Option(help="A .csv to fill in, or tasks of Label Studio in .json.")] = Path(
        "labels.csv"
    ),
    strategy: Annotated[
        str | None,
        typer.Option(
            help="random, uncertainty, diversity, drift or combined; by default labeling.strategy of params.yaml."
        ),
    ] = None,
    now: Annotated[
        datetime | None,
        typer.Option(
            formats=FORMATS, metavar=METAVAR, help="Choose from predictions until this time, in UTC; by default now."
        ),
    ] = None,
    bundle: _Bundle = Path("models/text"),
    test: Annotated[Path, typer.Option(help="The champion's test set.")] = Path("data/text/test.parquet"),
) -> None:
    """Choose which predictions of the last monitor.window_days are worth a label, and write them to a file.

    labeling.random_fraction of them are drawn at random; only those labels count as measured accuracy.
    """
    if out.exists():
        raise typer.BadParameter(f"{out} is there, maybe with labels in it. Name another file.", param_hint="'--out'")
    from evergreen.monitoring import label_selection  # noqa: PLC0415 - imports for this command only
    from evergreen.monitoring.label_tasks import write_tasks  # noqa: PLC0415
    from evergreen.monitoring.log import PredictionLog  # noqa: PLC0415
    from evergreen.monitoring.windows import Reference  # noqa: PLC0415
    from evergreen.params import Params  # noqa: PLC0415
    from evergreen.text.runtime import Classifier  # noqa: PLC0415

    params, settings = Params.load(), Settings.load()
    if strategy is not None:
        params = Params.parse(params.model_dump() | {"labeling": params.labeling.model_dump() | {"strategy": strategy}})
    until = add_zone(now or datetime.now(UTC))
    since = until - timedelta(days=params.monitor.window_days)
    classifier = Classifier.load(bundle)
    log = PredictionLog.open(settings.log_url, settings.log_text)
    reference = Reference.load(test, classifier, params.monitor.max_samples).follow(log, classifier, params.monitor)
    rows = log.stream(since, until)
    candidates = label_selection.read_candidates(rows, classifier, since, until, params.monitor.max_samples)
    selections = label_selection.select(candidates, reference.window.embeddings, budget, params.labeling, params.seed)
    if not selections:
        print(
            f"nothing to label: no prediction of {classifier.manifest.identity} since {since:%Y-%m-%d} has a text and "
            "no label. With EVERGREEN_LOG_TEXT=cleaned the log keeps texts."
        )
        return
    written = write_tasks(selections, classifier.labels, out)
    n_random = sum(selection.strategy == label_selection.RANDOM for selection in selections)
    print(f"{len(selections):,} of {len(candidates):,} predictions, {n_random:,} of them at random, in {out}")
    if len(written) == 1:
        print(f"when labeled: evergreen label import {out}")
    else:
        print(f"labeling interface for Label Studio in {written[1]}; of its export: evergreen label import EXPORT.json")


@app.command("import", epilog="Example: evergreen label import labels.csv")
def import_labels(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The .csv, filled in, or Label Studio's export (JSON or JSON-MIN).")
    ],
    bundle: _Bundle = Path("models/text"),
) -> None:
    """Write labels to the prediction log, as feedback; rows that can't be taken are listed, and all others taken."""
    from evergreen.monitoring.label_selection import RANDOM  # noqa: PLC0415 - as above
    from evergreen.monitoring.label_tasks import check_rows, count_strategies, read_labels  # noqa: PLC0415
    from evergreen.monitoring.log import RANDOM_SOURCE, SELECTED_SOURCE, Feedback, PredictionLog  # noqa: PLC0415
    from evergreen.text.bundle import Bundle  # noqa: PLC0415

    settings = Settings.load()
    rows = read_labels(file)
    labels = Bundle.load(bundle).manifest.labels
    log = PredictionLog.open(settings.log_url, settings.log_text)
    valid, rejected = check_rows(rows, labels, log)
    now = datetime.now(UTC)
    sources = {True: RANDOM_SOURCE, False: SELECTED_SOURCE}
    log.write([], [Feedback(row.prediction_id, sources[row.strategy == RANDOM], row.label, now) for row in valid])
    counts = ", ".join(f"{count:,} {strategy}" for strategy, count in count_strategies(valid).items())
    print(f"{len(valid):,} labels imported{f' ({counts})' if counts else ''}; "
          f"{len(rows) - len(valid) - len(rejected):,} rows without a label, {len(rejected):,} rejected")  # fmt: skip
    if rejected:
        _list_rejected(file, rejected)
        raise typer.Exit(1)


def _list_rejected(file: Path, rejected: "list[RejectedRow]") -> None:
    for row in rejected[:_SHOWN]:
        print(f"{file}, {row.position}: {row.reason}.", file=sys.stderr)
    if len(rejected) > _SHOWN:
        print(f"and {len(rejected) - _SHOWN:,} more", file=sys.stderr)
