"""Stage cnn-lstm: error maps → the detector's bundle `models/video/`, and its evaluation by the bundle alone."""

from pathlib import Path

from evergreen import stage
from evergreen.params import Params
from evergreen.settings import Settings

FEATURES, WEIGHTS, BUNDLE = Path("data/video/features.h5"), Path("models/video-diffusion"), Path("models/video")
METRICS, REPORTS, CARD = Path("metrics"), Path("reports/video"), Path("models/video-card.md")


def main() -> None:
    """Train the CNN+LSTM, calibrate it, choose thresholds, export, and measure the bundle on the test part."""
    params = Params.load()
    settings = Settings.load()
    # Imported once the parameters are right, since this takes seconds.
    from evergreen.tracking import Run, record
    from evergreen.video.build import evaluate_detector, make_detector
    from evergreen.video.card import render_card
    from evergreen.video.detector import Detector
    from evergreen.video.metrics import FeatureMetrics
    from evergreen.video.sequences import plan_parts
    from evergreen.written import load_written

    parts = plan_parts(params.video, params.clips)
    features = load_written(FeatureMetrics, METRICS / "video_features.json", "dvc repro video-features")
    bundle, training = make_detector(
        params, parts, features.normal_frames, FEATURES, WEIGHTS, BUNDLE, REPORTS / "cnn_lstm.csv"
    )
    metrics, pictures = evaluate_detector(Detector(bundle), training, params, parts, REPORTS)
    metrics.save(METRICS / "video.json")
    CARD.write_text(render_card(bundle.manifest, metrics, features, params.video), encoding="utf-8")
    run = Run.of_bundle(
        bundle.manifest,
        "cnn-lstm",
        params=params.model_dump(mode="json", include={"video", "clips", "diffusion", "reconstruction", "cnn_lstm"}),
        metrics={"features": features.model_dump(), "test": metrics.model_dump()},
        steps=training.steps,
        artifacts=[*pictures, CARD],
        bundle=BUNDLE,
    )
    flushed = record(run, settings)
    difference = metrics.baselines["frame_difference"]
    print(f"this bundle: frame AUC {metrics.frame_auc}, clip AUC {metrics.clip_auc}")
    print(f"frame_difference: frame AUC {difference.frame_auc}, clip AUC {difference.clip_auc}")
    print(f"{metrics.cost.frames_per_second:.0f} frames per second, {metrics.cost.peak_memory_mb:.0f} MB")
    print(f"run {'kept for later' if flushed.problem else 'recorded'}; card in {CARD}, plots in {REPORTS}")


if __name__ == "__main__":
    stage.run(main)
