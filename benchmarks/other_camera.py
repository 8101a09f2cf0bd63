"""A camera that the video pipeline was not tuned on: the parameters of `ped2.py`, trained from the video's start.

The video has no labels: its start is taken as normal, anomalies are synthesized in the rest, and the test is of kinds
that training never saw. The camera has to stand still. The recorded result is of OpenCV's `vtest.avi`:
apt-get download opencv-doc && dpkg-deb -x opencv-doc_*.deb opencv-doc
python benchmarks/other_camera.py opencv-doc/usr/share/doc/opencv-doc/examples/data/vtest.avi
"""

import argparse
from pathlib import Path

from ped2 import PACKAGES, RESULTS, SECTIONS, SETTINGS, make_params
from record import save_result

from evergreen.video.own_footage import train_on_footage

WORK = Path(".cache/other_camera")


def main() -> None:
    """Train, measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "other_camera.json")
    args = parser.parse_args()
    changes = SETTINGS["two_cores"] | {"clips.cut_threshold": None, "video.source": str(args.video)}
    params = make_params(changes, seed=0)
    _, features, metrics = train_on_footage(params, WORK / args.video.stem)
    save_result(
        args.out,
        PACKAGES,
        video=args.video.name,
        features=features.model_dump(mode="json", exclude={"train_runtime", "features_runtime"}),
        metrics=metrics.model_dump(mode="json", exclude={"cost", "train_runtime"}),
        params=params.model_dump(mode="json", include=set(SECTIONS), exclude={"video": {"source"}}),
    )
    print(f"frame AUC {metrics.frame_auc}, by kind {metrics.by_kind}; difference {metrics.baselines}")


if __name__ == "__main__":
    main()
