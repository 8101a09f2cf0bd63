"""Fine-tuning with `transformers.Trainer`: resumable, seeded, on one CPU or many GPUs alike."""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from evergreen import logs, sources
from evergreen.params import ParamsError, Train
from evergreen.text import model as models

log = logs.get(__name__)


@dataclass
class Trained:
    """What training ends in.

    Attributes:
        model: the best one by validation macro-F1, on the CPU.
        tokenizer: its `transformers` tokenizer.
        temperature: fitted on validation.
        history: one row per log entry of the trainer: step, epoch, loss, learning rate, validation scores.
        seconds: spent training, evaluations on validation included, all sittings of a resumed run added up.
        resumed_from: the step of the checkpoint that an interrupted run went on from, or 0.
        texts: how many were trained on, per epoch.
        checkpoints: the run's folder; to be removed once what was trained is safe elsewhere.
    """

    model: models.TextClassifier
    tokenizer: Any
    temperature: float
    history: list[dict[str, float]]
    seconds: float
    resumed_from: int
    texts: int
    checkpoints: Path


def train(params: Train, labels: list[str], seed: int, data: Path, checkpoints: Path, fingerprint: str) -> Trained:
    """Fine-tune on `data/train.parquet`, stopping early on the macro-F1 over `data/validation.parquet`.

    Args:
        checkpoints: where an interrupted run leaves its state; it is found again by `fingerprint`.
        fingerprint: tells runs apart: same parameters, same data.
    """
    if params.num_threads:
        torch.set_num_threads(params.num_threads)
    set_seed(seed)
    weights = sources.local(params.warm_start or params.weights)
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = models.load(weights, labels, params.dropout)
    model.freeze(params.freeze_embeddings, params.freeze_layers)
    positions = min(tokenizer.model_max_length, getattr(model.encoder.config, "max_position_embeddings", 2**31))
    if params.max_tokens > positions:
        raise ParamsError(f"train.max_tokens: found {params.max_tokens}, but this model reads {positions} tokens.")
    training = _tokenised(data / "train.parquet", tokenizer, labels, params.max_tokens)
    validation = _tokenised(data / "validation.parquet", tokenizer, labels, params.max_tokens)
    if params.warm_start:
        training = with_replay(training, weights, params.replay_ratio, seed)
    folder = checkpoints / hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
    arguments = _arguments(params, seed, folder, len(training))
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=training.remove_columns("observed_at"),
        eval_dataset=validation.remove_columns("observed_at"),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_scores,
        callbacks=[EarlyStoppingCallback(params.patience)],
        head_learning_rate=params.head_learning_rate,
        loss=_loss(params, training["labels"], len(labels)),
    )
    for partial in folder.glob("checkpoint-*"):  # a kill while saving leaves one without its last file
        if not (partial / "trainer_state.json").exists():
            shutil.rmtree(partial)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last:
        log.info("resuming", checkpoint=last)
    trainer.train(resume_from_checkpoint=last)
    seconds = trainer.seconds()
    # Its own labels beside the logits: texts come back grouped by length, not in the order of the file.
    validated = trainer.predict(validation.remove_columns("observed_at"))
    return Trained(
        model=trainer.model.cpu().eval(),
        tokenizer=tokenizer,
        temperature=fit_temperature(validated.predictions, validated.label_ids),
        history=trainer.state.log_history,
        seconds=seconds,
        resumed_from=int(last.rpartition("-")[2]) if last else 0,
        texts=len(training),
        checkpoints=folder,
    )


def _tokenised(path: Path, tokenizer: Any, labels: list[str], max_tokens: int) -> datasets.Dataset:
    rows = datasets.Dataset.from_parquet(str(path), keep_in_memory=False)

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids = tokenizer(batch["text"], truncation=True, max_length=max_tokens, return_token_type_ids=False)
        return {
            **ids,
            "labels": [labels.index(label) for label in batch["label"]],
            "length": [*map(len, ids["input_ids"])],
        }

    return rows.map(encode, batched=True, remove_columns=["id", "text", "label", "source"], desc="Tokenising")


def with_replay(training: datasets.Dataset, champion: Path, ratio: float, seed: int) -> datasets.Dataset:
    """Keep what is newer than the champion, and `ratio` as many older rows, so that old skills stay trained.

    Where nothing is newer, all rows stay.
    """
    file = champion / "training.json"
    if not file.exists():
        raise sources.SourceError(f"{champion}: no training.json. train.warm_start wants weights that `train` wrote.")
    state = json.loads(file.read_text(encoding="utf-8"))
    if models.weights_hash(champion) != state["weights_hash"]:
        raise sources.SourceError(f"{champion}: the weights changed since they were trained. Fetch them again.")
    until = np.datetime64(state["trained_until"].removesuffix("+00:00"))
    times = np.array(training.with_format("numpy")["observed_at"], dtype="datetime64[us]")
    new, old = np.flatnonzero(times > until), np.flatnonzero(times <= until)
    if not len(new):
        return training
    kept = np.random.default_rng(seed).permutation(old)[: round(ratio * len(new))]
    return training.select(np.sort(np.concatenate([new, kept])))


def _arguments(params: Train, seed: int, folder: Path, texts: int) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    devices = max(torch.cuda.device_count(), 1)
    batches = texts / (params.batch_size * devices)
    # However short the training, its end is evaluated.
    steps = max(1, int(batches * min(params.epochs, 1 / params.evaluations_per_epoch)))
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.batch_size,
        per_device_eval_batch_size=2 * params.batch_size,
        learning_rate=params.learning_rate,
        warmup_steps=params.warmup_share,
        weight_decay=params.weight_decay,
        lr_scheduler_type="linear",
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=steps,
        save_steps=steps,
        logging_steps=max(1, steps // 10),
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        bf16=cuda and torch.cuda.is_bf16_supported(),
        fp16=cuda and not torch.cuda.is_bf16_supported(),
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        report_to="none",
        seed=seed,
    )


class _Trainer(Trainer):
    """The head starts from nothing and learns faster than the encoder; the clock survives a kill."""

    def __init__(self, *, head_learning_rate: float, loss: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._head_learning_rate = head_learning_rate
        self._loss = loss
        self._started = time.monotonic()
        clock = Path(self.args.output_dir) / "seconds.json"
        self._before = json.loads(clock.read_text()) if clock.exists() else 0.0

    def create_optimizer(self, *_args: Any, **_kwargs: Any) -> Any:
        if getattr(self, "optimizer", None) is None:
            encoder = [p for p in self.model.encoder.parameters() if p.requires_grad]
            groups = [{"params": self.model.head.parameters(), "lr": self._head_learning_rate}]
            if encoder:
                groups.append({"params": encoder, "lr": self.args.learning_rate})
            self.optimizer = torch.optim.AdamW(groups, weight_decay=self.args.weight_decay)
        return self.optimizer  # set above or by the caller

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        labels = inputs["labels"]
        outputs = model(inputs["input_ids"], inputs["attention_mask"])
        loss = self._loss(outputs["logits"], labels)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, *_args: Any, **_kwargs: Any) -> Any:
        with torch.no_grad():
            inputs = self._prepare_inputs(inputs)
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss, outputs["logits"], inputs["labels"]

    def seconds(self) -> float:
        """Spent so far, sittings before a kill included."""
        return self._before + time.monotonic() - self._started

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        clock = Path(self.args.output_dir) / "seconds.json"
        clock.write_text(json.dumps(self.seconds()))


def _loss(params: Train, labels: Any, classes: int) -> Any:
    counts = np.bincount(np.array(labels), minlength=classes).clip(1)
    weight = torch.tensor((counts.sum() / classes / counts) ** params.class_weight_power, dtype=torch.float32)

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            logits, target, weight.to(logits.device), label_smoothing=params.label_smoothing
        )

    return loss


def _scores(prediction: Any) -> dict[str, float]:
    answers = prediction.predictions.argmax(-1)
    return {
        "accuracy": float(accuracy_score(prediction.label_ids, answers)),
        "macro_f1": float(f1_score(prediction.label_ids, answers, average="macro")),
    }


def fit_temperature(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """Find the temperature that minimises the negative log-likelihood (Guo et al., ICML 2017).

    Args:
        logits: [texts, labels], of texts not trained on.
        labels: [texts], indices.
    """
    scores = torch.tensor(logits, dtype=torch.float64)
    target = torch.tensor(labels)

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / np.exp(log_temperature), target))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
