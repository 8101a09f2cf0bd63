"""Settings of the training side by side: time, memory and quality on validation, in one run.

Each setting trains in a process of its own, so that its peak memory is its own, on the same texts in the same order.
Run it after `dvc repro preprocess`, with nothing else running: python benchmarks/training_cost.py [--samples N]
[--seeds N]
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from record import save_result

DATA, RESULT = Path("data/text"), Path("benchmarks/results/training_cost.json")
REFERENCE: dict[str, Any] = {
    "epochs": 1.5,
    "learning_rate": 2e-4,
    "batch_size": 32,
    "freeze_embeddings": True,
    "freeze_layers": 3,
    "encoder_dropout": 0.1,
}
# What differs from the reference; LoRA wants a higher rate than the weights that it adapts.
SETTINGS: dict[str, dict[str, Any]] = {
    "reference: 1.5 epochs, rate 2e-4, 3 layers frozen": {},
    "2 epochs, rate 1.5e-4": {"epochs": 2.0, "learning_rate": 1.5e-4},
    "rate 3e-4": {"learning_rate": 3e-4},
    "no dropout in the encoder": {"encoder_dropout": 0.0},
    "4 layers frozen, rate 3e-4": {"freeze_layers": 4, "learning_rate": 3e-4},
    "2 layers frozen": {"freeze_layers": 2},
    "nothing frozen": {"freeze_embeddings": False, "freeze_layers": 0},
    "LoRA rank 16, rate 1e-3": {"lora": 16, "learning_rate": 1e-3},
}


def measure(setting: str, n_samples: int, seed: int) -> dict[str, float]:
    """Train one setting in this process and score it on validation."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - the parent process needs no torch
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    from evergreen.params import Params  # noqa: PLC0415
    from evergreen.text.labels import load_labels  # noqa: PLC0415
    from evergreen.text.model import TextClassifier  # noqa: PLC0415
    from evergreen.text.training import train  # noqa: PLC0415

    params = Params.load()
    changes = REFERENCE | SETTINGS[setting]
    rank = changes.pop("lora", None)
    settings = params.train.model_copy(update={"early_stopping_patience": 99, **changes})
    trainable = 0
    freeze = TextClassifier.freeze

    def prepare(model: TextClassifier, embeddings: bool, layers: int) -> None:
        nonlocal trainable
        if rank:
            config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules="all-linear")
            model.encoder = get_peft_model(model.encoder, config)
        else:
            freeze(model, embeddings, layers)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)

    TextClassifier.freeze = prepare  # type: ignore[method-assign, assignment]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = pq.read_table(DATA / "train.parquet")
        pq.write_table(rows.slice(0, n_samples), folder / "train.parquet")
        pq.write_table(pq.read_table(DATA / "validation.parquet"), folder / "validation.parquet")
        pq.write_table(rows.slice(0, 0), folder / "test.parquet")
        result = train(settings, load_labels(DATA), seed, folder, folder / "checkpoints")
    best = result.best
    return {
        "train_runtime": result.train_runtime,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "trainable_parameters": trainable,
        "accuracy": best["eval_accuracy"],
        "macro_f1": best["eval_macro_f1"],
    }


def main() -> None:
    """Run every setting for every seed, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.samples, args.seed)))
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    for seed in range(args.seeds):  # seed by seed, so that a slow quarter of an hour slows every setting
        for name, measured in runs.items():
            print(f"{name}, seed {seed} …", file=sys.stderr, flush=True)
            own = ["--only", name, "--samples", str(args.samples), "--seed", str(seed)]
            done = subprocess.run([sys.executable, __file__, *own], stdout=subprocess.PIPE, text=True, check=True)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
    table = {name: {key: mean(run[key] for run in many) for key in many[0]} for name, many in runs.items()}
    save_result(RESULT, ("torch", "transformers", "peft", "accelerate"), table=table, runs=runs)
    base = next(iter(table.values()))["train_runtime"]
    print("| setting | relative time | peak memory MB | trainable | accuracy | macro-F1 |\n|---|---|---|---|---|---|")
    for name, row in table.items():
        print(
            f"| {name} | {row['train_runtime'] / base:.2f} | {row['peak_memory_mb']:,.0f}"
            f" | {row['trainable_parameters'] / 1e6:.1f} M | {row['accuracy']:.3f} | {row['macro_f1']:.3f} |"
        )


if __name__ == "__main__":
    main()
