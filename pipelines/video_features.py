"""Stage video-features: the videos of `params.yaml` → the diffusion model of normal frames and its error maps."""

from pathlib import Path

from evergreen import stage
from evergreen.params import Params
from evergreen.settings import Settings

FEATURES, WEIGHTS = Path("data/video/features.h5"), Path("models/video-diffusion")
METRICS, HISTORY = Path("metrics/video_features.json"), Path("reports/video/diffusion.csv")


def main() -> None:
    """Train the diffusion model on normal frames, and write what it can't restore of the others."""
    params = Params.load()
    settings = Settings.load()
    # Imported once the parameters are right, since this takes seconds.
    from evergreen.video.extraction import make_features
    from evergreen.video.sequences import plan_parts

    parts = plan_parts(params.video, params.clips)
    metrics = make_features(params, parts, FEATURES, WEIGHTS, HISTORY, settings.state_dir / "checkpoints")
    metrics.save(METRICS)
    print(
        f"diffusion model: {metrics.diffusion_steps} steps on {metrics.normal_frames:,} normal frames in "
        f"{metrics.train_runtime:.0f} s; error maps of {metrics.n_sequences} sequences, {metrics.n_frames:,} frames, "
        f"{metrics.n_anomalous:,} of them anomalous, in {metrics.features_runtime:.0f} s"
    )


if __name__ == "__main__":
    stage.run(main)
