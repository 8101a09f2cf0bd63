"""Stage train: `data/text/` → the bundle `models/text/`, its torch weights beside it, `metrics/training.json`."""

import json
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from evergreen import params, plots, stage, tracking
from evergreen.settings import Settings
from evergreen.text import bundle, export, training
from evergreen.text import model as models
from evergreen.text.cleaning import VERSION
from evergreen.text.corpus import SPLITS
from evergreen.text.runtime import Classifier

DATA, BUNDLE, WEIGHTS = Path("data/text"), Path("models/text"), Path("models/text-weights")
METRICS, REPORTS = Path("metrics"), Path("reports/text")


def main() -> None:
    """Train, calibrate, export, and check that the bundle agrees with the torch model."""
    chosen = params.load()
    data_hash = bundle.sha256(*(DATA / f"{split}.parquet" for split in SPLITS))
    settings = Settings()
    fingerprint = data_hash + chosen.train.model_dump_json() + str(chosen.seed)
    trained = training.train(
        chosen.train, chosen.data.labels, chosen.seed, DATA, settings.state_dir / "checkpoints", fingerprint
    )
    for folder in (BUNDLE, WEIGHTS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    times = pq.read_table(DATA / "train.parquet", columns=["observed_at", "source"])
    until = pc.max(times["observed_at"]).as_py().isoformat()
    trained.model.save(WEIGHTS, chosen.data.labels)
    trained.tokenizer.save_pretrained(WEIGHTS)
    weights_hash = models.weights_hash(WEIGHTS)
    (WEIGHTS / "training.json").write_text(json.dumps({"trained_until": until, "weights_hash": weights_hash}) + "\n")
    export.export(trained.model, trained.tokenizer, BUNDLE, chosen.export.quantise)
    manifest = bundle.Manifest(
        version=chosen.export.version,
        labels=chosen.data.labels,
        max_tokens=chosen.train.max_tokens,
        temperature=trained.temperature,
        cleaning=bundle.Cleaning(version=VERSION, public_handles=chosen.data.public_handles),
        data_hash=data_hash,
        weights_hash=weights_hash,
        trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
        trained_until=until,
        trained_on=sorted(pc.unique(times["source"]).to_pylist()),
        embedding_size=trained.model.encoder.config.hidden_size,
        precision="int8" if chosen.export.quantise else "float32",
        run=uuid.uuid4().hex,
        sha256={},
    )
    bundle.write(BUNDLE, manifest)
    shutil.rmtree(trained.checkpoints)
    rows = pq.read_table(DATA / "validation.parquet", columns=["text", "label"])
    rows = rows.slice(0, chosen.export.agreement_texts).to_pydict()
    texts, truth = rows["text"], [manifest.labels.index(label) for label in rows["label"]]
    expected = export.torch_probabilities(
        trained.model, trained.tokenizer, texts, manifest.max_tokens, manifest.temperature
    )
    agreement = export.agreement(expected, Classifier(BUNDLE), texts, truth)
    best = max((row for row in trained.history if "eval_macro_f1" in row), key=lambda row: row["eval_macro_f1"])
    numbers = {
        "seconds": round(trained.seconds, 1),
        "texts": trained.texts,
        "epochs": best["epoch"],
        "resumed_from_step": trained.resumed_from,
        "temperature": trained.temperature,
        "validation": {name: best[f"eval_{name}"] for name in ("accuracy", "macro_f1", "loss")},
        "agreement": agreement,
        "bundle_bytes": bundle.size(BUNDLE),
    }
    METRICS.mkdir(exist_ok=True)
    (METRICS / "training.json").write_text(json.dumps(numbers, indent=2) + "\n")
    plots.training_curve(trained.history, REPORTS / "training.png")
    tracking.record(
        tracking.Run(
            key=manifest.run,
            name=f"text {manifest.version}",
            params=chosen.model_dump(mode="json"),
            metrics=numbers,
            steps=[row for row in trained.history if "step" in row],
            tags={"data_hash": data_hash, "stage": "train"},
            artifacts=[REPORTS / "training.png"],
        ),
        settings,
    )
    print(
        f"validation macro-F1 {best['eval_macro_f1']:.3f} in {trained.seconds:.0f} s; bundle agrees on "
        f"{agreement['label_agreement']:.1%} of {len(texts)} texts"
    )
    if agreement["label_agreement"] < chosen.export.min_label_agreement:
        raise bundle.ExportError(
            f"the bundle gives the torch model's label for {agreement['label_agreement']:.1%} of the texts; "
            f"export.min_label_agreement wants {chosen.export.min_label_agreement:.1%}. Try export.quantise=false."
        )


if __name__ == "__main__":
    stage.run(main)
