"""Fine-tuning with `transformers.Trainer`: resumable, seeded, on one CPU or many GPUs alike."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import ExportableState
from transformers.utils import logging as transformers_logging

from evergreen import sources
from evergreen.bundle import hash_files
from evergreen.logs import get_logger
from evergreen.params import TrainParams
from evergreen.text.checkpoints import compute_fingerprint, find_checkpoint
from evergreen.text.loading import load_pretrained
from evergreen.text.metrics import Parity, TrainingMetrics, ValidationScores
from evergreen.text.model import TextClassifier, hash_weights
from evergreen.text.splits import SPLITS

log = get_logger(__name__)
HISTORY = ["step", "epoch", "loss", "eval_loss", "eval_accuracy", "eval_macro_f1"]
KEPT_CHECKPOINTS = 2
"""The newest, and the best where that is another."""
_UNUSED_OUTPUTS = ["sentence_embedding"]
# Their logs go where ours go.
transformers_logging.disable_default_handler()
transformers_logging.enable_propagation()
if not sys.stderr.isatty():
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()


@dataclass
class TrainingResult:
    """What training ends in.

    Attributes:
        model: the best one by validation macro-F1, on the CPU.
        tokenizer: its `transformers` tokenizer.
        labels: in the order of the logits.
        temperature: fitted on validation.
        history: one row per log entry of the trainer: step, epoch, loss, learning rate, validation scores.
        train_runtime: seconds, evaluations on validation included, all restarts of a resumed run added up.
        resumed_from_step: the step of the checkpoint that an interrupted run resumed from, or 0.
        n_samples: how many texts were trained on, per epoch.
        data_hash: SHA-256 over train, validation and test.
        data_cutoff: newest observation trained on, ISO 8601.
        train_topics: the topics trained on, sorted.
        checkpoints: the run's folder; to be removed once what was trained is safe elsewhere.
    """

    model: TextClassifier
    tokenizer: Any
    labels: list[str]
    temperature: float
    history: list[dict[str, float]]
    train_runtime: float
    resumed_from_step: int
    n_samples: int
    data_hash: str
    data_cutoff: str
    train_topics: list[str]
    checkpoints: Path

    @property
    def best(self) -> dict[str, float]:
        """The evaluation on validation of the kept checkpoint."""
        return max((row for row in self.history if "eval_macro_f1" in row), key=lambda row: row["eval_macro_f1"])

    def summarize(self, parity: Parity, size_mb: float) -> TrainingMetrics:
        """Sum up the training and the export of its bundle."""
        best = self.best
        return TrainingMetrics(
            train_runtime=round(self.train_runtime, 1),
            n_samples=self.n_samples,
            epoch=best["epoch"],
            resumed_from_step=self.resumed_from_step,
            temperature=self.temperature,
            validation=ValidationScores(
                accuracy=best["eval_accuracy"], macro_f1=best["eval_macro_f1"], loss=best["eval_loss"]
            ),
            parity=parity,
            size_mb=size_mb,
        )

    def save_history(self, path: Path) -> None:
        """Write a row per logged step: losses and validation scores."""
        logged = [row for row in self.history if "loss" in row or "eval_loss" in row]
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(logged).reindex(columns=HISTORY).to_csv(path, index=False)

    def save_pretrained(self, folder: Path) -> str:
        """Write the torch weights, for a warm start later, and return their hash."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.model.save_pretrained(folder, self.labels)
        self.tokenizer.save_pretrained(folder)
        weights_hash = hash_weights(folder)
        state = {"data_cutoff": self.data_cutoff, "weights_hash": weights_hash}
        (folder / "training.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
        return weights_hash

    def remove_checkpoints(self) -> None:
        """Remove what an interrupted run would have resumed from."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def train(params: TrainParams, labels: list[str], seed: int, data: Path, checkpoints: Path) -> TrainingResult:
    """Fine-tune on `data/train.parquet`, stopping early on the macro-F1 over `data/validation.parquet`.

    Args:
        checkpoints: where an interrupted run leaves its state; the same parameters, labels, data and starting
            weights resume from it.

    Raises:
        ParamsError: when the parameters don't fit the model.
        SourceError: when the weights can't be loaded.
    """
    if params.num_threads:
        torch.set_num_threads(params.num_threads)
    set_seed(seed)
    weights = sources.resolve(params.warm_start or params.base_model)
    tokenizer, model = load_pretrained(params, weights, labels)
    data_hash = hash_files(*(data / f"{split}.parquet" for split in SPLITS))
    training = _tokenize(data / "train.parquet", tokenizer, labels, params.max_length)
    validation = _tokenize(data / "validation.parquet", tokenizer, labels, params.max_length)
    if params.warm_start:
        training = add_replay(training, weights, params.replay_ratio, seed)
    folder = checkpoints / compute_fingerprint(params, labels, seed, data_hash, weights)
    trainer = _build_trainer(model, tokenizer, params, seed, folder, training, validation)
    last = find_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(last) if last else None, ignore_keys_for_eval=_UNUSED_OUTPUTS)
    # Its own labels beside the logits: texts come back grouped by length, not in the order of the file.
    predicted = trainer.predict(validation, ignore_keys=_UNUSED_OUTPUTS)
    times = pq.read_table(data / "train.parquet", columns=["observed_at"])["observed_at"]
    return TrainingResult(
        model=trainer.model.cpu().eval(),
        tokenizer=tokenizer,
        labels=labels,
        temperature=fit_temperature(predicted.predictions, predicted.label_ids),
        history=trainer.state.log_history,
        train_runtime=next(c.seconds() for c in trainer.callback_handler.callbacks if isinstance(c, _Clock)),
        resumed_from_step=int(last.name.rpartition("-")[2]) if last else 0,
        n_samples=len(training),
        data_hash=data_hash,
        data_cutoff=pc.max(times).as_py().isoformat(),
        train_topics=sorted(training.unique("topic")),
        checkpoints=folder,
    )


def _build_trainer(
    model: TextClassifier,
    tokenizer: Any,
    params: TrainParams,
    seed: int,
    folder: Path,
    training: datasets.Dataset,
    validation: datasets.Dataset,
) -> Trainer:
    trainer = Trainer(
        model=model,
        args=_build_arguments(params, seed, folder, len(training)),
        train_dataset=training,
        eval_dataset=validation,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_compute_metrics,
        compute_loss_func=_build_loss(params, np.array(training["labels"]), model.head.out_features),
        optimizers=(_build_optimizer(model, params), None),
        callbacks=[EarlyStoppingCallback(params.early_stopping_patience), _Clock(), _EvaluationLines()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _tokenize(path: Path, tokenizer: Any, labels: list[str], max_length: int) -> datasets.Dataset:
    rows = datasets.Dataset.from_parquet(str(path), keep_in_memory=False)

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids = tokenizer(batch["text"], truncation=True, max_length=max_length, return_token_type_ids=False)
        return {**ids, "labels": [labels.index(label) for label in batch["label"]]}

    return rows.map(encode, batched=True, remove_columns=["id", "text", "label"], desc="Tokenizing")


def add_replay(training: datasets.Dataset, champion: Path, ratio: float, seed: int) -> datasets.Dataset:
    """Keep what is newer than the champion, and `ratio` as many older rows, so that old skills stay trained.

    Where nothing is newer, all rows stay.

    Raises:
        SourceError: when the champion's folder was not written by `TrainingResult.save_pretrained`, or changed since.
    """
    file = champion / "training.json"
    if not file.exists():
        raise sources.SourceError(f"{champion}: no training.json. train.warm_start wants weights that `train` wrote.")
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        weights_hash, cutoff = state["weights_hash"], np.datetime64(state["data_cutoff"].removesuffix("+00:00"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise sources.SourceError(f"{file}: damaged. Fetch the weights again.") from error
    if hash_weights(champion) != weights_hash:
        raise sources.SourceError(f"{champion}: the weights changed since they were trained. Fetch them again.")
    times = np.array(training.with_format("numpy")["observed_at"], dtype="datetime64[us]")
    new = np.flatnonzero(times > cutoff)
    old = np.flatnonzero(times <= cutoff)
    if not len(new):
        return training
    replayed = np.random.default_rng(seed).permutation(old)[: round(ratio * len(new))]
    return training.select(np.sort(np.concatenate([new, replayed])))


def _build_arguments(params: TrainParams, seed: int, folder: Path, n_samples: int) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    devices = max(torch.cuda.device_count(), 1)
    batches = n_samples / (params.batch_size * devices)
    # Rounded up, so that the evaluation at the end is not a second one of the same weights.
    steps = math.ceil(batches * min(params.epochs, 1 / params.evaluations_per_epoch))
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.batch_size,
        per_device_eval_batch_size=2 * params.batch_size,
        learning_rate=params.learning_rate,
        warmup_steps=params.warmup_ratio,
        lr_scheduler_type="linear",
        train_sampling_strategy="group_by_length",
        label_names=["labels"],
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=steps,
        save_steps=steps,
        logging_steps=max(1, steps // 10),
        save_total_limit=KEPT_CHECKPOINTS,
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        restore_callback_states_from_checkpoint=True,
        average_tokens_across_devices=False,  # the loss is a mean over texts already
        bf16=cuda and torch.cuda.is_bf16_supported(),
        fp16=cuda and not torch.cuda.is_bf16_supported(),
        dataloader_pin_memory=cuda,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        seed=seed,
    )


def _build_optimizer(model: TextClassifier, params: TrainParams) -> torch.optim.Optimizer:
    # The head starts from nothing and learns faster than the encoder.
    groups: list[dict[str, Any]] = [{"params": list(model.head.parameters()), "lr": params.head_learning_rate}]
    encoder = [p for p in model.encoder.parameters() if p.requires_grad]
    if encoder:
        groups.append({"params": encoder, "lr": params.learning_rate})
    return torch.optim.AdamW(groups, weight_decay=params.weight_decay)


def _build_loss(params: TrainParams, labels: NDArray[np.int64], num_labels: int) -> Callable[..., torch.Tensor]:
    counts = np.bincount(labels, minlength=num_labels).clip(1)
    weight = torch.tensor((counts.sum() / num_labels / counts) ** params.class_weight_power, dtype=torch.float32)

    def compute_loss(outputs: dict[str, torch.Tensor], labels: torch.Tensor, **_: Any) -> torch.Tensor:
        logits = outputs["logits"]
        return torch.nn.functional.cross_entropy(
            logits, labels, weight.to(logits.device), label_smoothing=params.label_smoothing
        )

    return compute_loss


def _compute_metrics(evaluation: Any) -> dict[str, float]:
    y_pred = evaluation.predictions.argmax(-1)
    return {
        "accuracy": float(accuracy_score(evaluation.label_ids, y_pred)),
        "macro_f1": float(f1_score(evaluation.label_ids, y_pred, average="macro")),
    }


class _Clock(TrainerCallback, ExportableState):
    """Counts the seconds of a training; the trainer keeps the count in its checkpoints, so it survives a kill."""

    def __init__(self) -> None:
        self.before = 0.0
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Seconds so far, those before a kill included."""
        return self.before + time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"before": self.seconds()}}


class _EvaluationLines(TrainerCallback):
    """Where no progress bar is drawn, prints a line per evaluation."""

    def on_evaluate(self, args: Any, state: Any, _control: Any, metrics: dict[str, float], **_: Any) -> None:
        if args.disable_tqdm:
            scores = f"accuracy {metrics['eval_accuracy']:.3f}, macro-F1 {metrics['eval_macro_f1']:.3f}"
            step = f"step {state.global_step} of {state.max_steps}"
            print(f"  {step}, epoch {metrics['epoch']:.2f}: validation {scores}", file=sys.stderr)


def fit_temperature(logits: NDArray[Any], y_true: NDArray[Any]) -> float:
    """Find the temperature that minimizes the negative log-likelihood (Guo et al., ICML 2017).

    Args:
        logits: [texts, labels], of texts not trained on.
        y_true: [texts], indices of the labels.
    """
    scores = torch.tensor(logits, dtype=torch.float64)
    target = torch.tensor(y_true)

    def negative_log_likelihood(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / np.exp(log_temperature), target))

    return float(np.exp(minimize_scalar(negative_log_likelihood, bounds=(-3, 3), method="bounded").x))
