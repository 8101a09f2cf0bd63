"""The table of `ped2.py` as a picture: frame AUC by what the CNN+LSTM looks at and what judges it, and the alarms."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from evergreen.plots import COLORS, save_figure

NAMES = {
    "diffusion": "diffusion error, three levels",
    "timestep_second": "… one level",
    "one_step_held": "… three levels, held for 12 frames",
    "ddim": "… DDIM, held for 12 frames",
    "no_context": "… no frames before it",
    "difference": "difference from the frame before",
    "autoencoder": "error of an autoencoder",
    "raw_frames": "the frames themselves",
}
JUDGES = {"smoothed": ("smoothed", COLORS[0]), "crf": ("CRF", COLORS[1]), "cnn_lstm_0": ("CNN+LSTM", COLORS[2])}


def plot_table(summary: dict[str, Any], path: Path) -> None:
    """Write the picture of the first seed's rows."""
    figure, (rows, alarms) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", width_ratios=(3, 2))
    _plot_rows(rows, summary["frame_auc"])
    _plot_alarms(alarms, summary["alarms"])
    save_figure(figure, path)


def _plot_rows(axes: Any, frame_auc: dict[str, dict[str, dict[str, float]]]) -> None:
    sources = [source for source in NAMES if frame_auc.get(f"{source}/crf/logits")]
    for (judge, (name, color)), shift in zip(JUDGES.items(), (-0.2, 0, 0.2), strict=True):
        values = [next(iter(frame_auc[f"{source}/{judge}/logits"].values())) for source in sources]
        middles = [value["value"] for value in values]
        errors = [[v["value"] - v["low"] for v in values], [v["high"] - v["value"] for v in values]]
        places = [place + shift for place in range(len(sources))]
        axes.errorbar(middles, places, xerr=errors, fmt="o", color=color, label=name, markersize=5, linewidth=1)
    difference = next(iter(frame_auc["frame_difference"].values()))["value"]
    axes.axvline(difference, color="gray", linestyle=":", linewidth=1)
    axes.text(difference - 0.01, len(sources) - 0.4, "difference of frames", color="gray", ha="right", fontsize=8)
    axes.set_yticks(range(len(sources)), [NAMES[source] for source in sources])
    axes.set_ylim(len(sources) - 0.3, -0.6)
    axes.set_xlabel("pooled frame AUC from logits, 95 % interval over clips")
    axes.set_title("UCSD Ped2: what is judged, and by what")
    axes.legend(loc="upper left")


def _plot_alarms(axes: Any, alarms: dict[str, list[dict[str, float]]]) -> None:
    for row, points in alarms.items():
        name, color = JUDGES[row.split("/")[1]]
        ratios = [point["cost_ratio"] for point in points]
        delays = [point["median_delay_seconds"] for point in points]
        counts = [point["false_alarms"] for point in points]
        axes.plot(ratios, delays, "o-", color=color, label=f"{name}: median delay, seconds")
        axes.plot(ratios, counts, "s--", color=color, label=f"{name}: false alarms in 36 s", alpha=0.6)
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    axes.minorticks_off()
    axes.set_xlabel("cost of a miss, in false alarms")
    axes.set_ylim(bottom=-0.1)
    axes.set_title("Alarms")
    axes.legend(loc="upper left", fontsize=8)
