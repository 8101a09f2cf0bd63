"""`evergreen video`: detect anomalies in a file or a stream, train a detector on own footage."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evergreen.video.detector import Detector

BUNDLE = Path("models/video")

app = typer.Typer(
    help="Detect anomalies in videos, and train a detector.",
    epilog="Example: evergreen video detect clip.mp4 --out evidence",
    no_args_is_help=True,
)


@app.command(epilog="Example: evergreen video detect clip.mp4 --out evidence")
def detect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="The video: a path, package:, s3:// or hf://; with --stream an address or a camera's number.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for result.json, timeline.png and overlay.mp4.", file_okay=False)
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Read until the stream ends, and print alarms as they occur.")
    ] = False,
    bundle: Annotated[Path, typer.Option(help="Folder of the video bundle.")] = BUNDLE,
) -> None:
    """Print 1 when the video holds an anomaly, else 0; with --out leave the evidence as well."""
    if stream and out is not None:
        raise typer.BadParameter("a stream leaves no evidence; give one of the two", param_hint="'--stream' / '--out'")
    if not stream and source.startswith(("rtsp://", "rtmp://", "udp://")):
        raise typer.BadParameter("the address of a stream; add --stream", param_hint="'FILE'")

    from evergreen.sources import resolve  # noqa: PLC0415
    from evergreen.video import detection  # noqa: PLC0415 - imports ONNX Runtime and OpenCV
    from evergreen.video.detector import Detector  # noqa: PLC0415

    path = None if stream else resolve(source)
    detector = Detector.load(bundle)
    if path is None:
        _watch(detector, source)
    else:
        print(detection.detect(detector, path, out).answer)


def _watch(detector: "Detector", source: str) -> None:
    clip = detector.open(source)
    alarmed, seconds = False, 0.0
    try:
        for scored in detector.watch(clip.frames()):
            seconds = scored.frame.seconds
            if scored.is_anomalous != alarmed:
                alarmed = scored.is_anomalous
                change = f"alarm, score {scored.y_proba:.2f}" if alarmed else "over"
                print(f"{seconds:.2f} s: {change}", flush=True)
    except KeyboardInterrupt:
        return
    print(f"{seconds:.2f} s: end of the stream", flush=True)


@app.command(epilog="Example: evergreen video train footage/ --labels labels.csv --out models/hall")
def train(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A video file, or a folder of them, or one with folders 0 and 1.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the bundle (in bundle/), its metrics, plots and card.")],
    labels: Annotated[
        str | None,
        typer.Option(
            help="CSV of clip, first_frame and last_frame: the anomalies; else folders 0 and 1, else synthesized."
        ),
    ] = None,
    params_file: Annotated[Path, typer.Option("--params", help="The parameter file.")] = Path("params.yaml"),
) -> None:
    """Train a detector on your own footage, with the numbers of params.yaml, and measure it."""
    from evergreen.params import Params  # noqa: PLC0415 - for this command only

    params = Params.load(params_file)
    video = params.video.model_copy(update={"source": path, "labels": labels})
    params = params.model_copy(update={"video": video})

    from evergreen.video.card import render_card  # noqa: PLC0415
    from evergreen.video.own_footage import train_on_footage  # noqa: PLC0415 - imports torch

    made, features, metrics = train_on_footage(params, out)
    metrics.save(out / "metrics.json")
    (out / "card.md").write_text(render_card(made.manifest, metrics, features, params.video), encoding="utf-8")
    print(f"frame AUC {metrics.frame_auc}, clip AUC {metrics.clip_auc}; card in {out / 'card.md'}")
    print(f"evergreen video detect FILE --bundle {out / 'bundle'}")
