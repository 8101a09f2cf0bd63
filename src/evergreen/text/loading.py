"""Weights to start a training from: loaded, and refused at once where they could not be trained or shipped."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoTokenizer

from evergreen.errors import get_first_line
from evergreen.params import ParamsError, TrainParams
from evergreen.sources import SourceError
from evergreen.text.model import TextClassifier

_PROBE = "Thanks for the quick rebooking, @user! 航班晚点 \U0001f600 http 3:30"


def load_pretrained(params: TrainParams, weights: Path, labels: list[str]) -> tuple[Any, TextClassifier]:
    """Load the tokenizer and the model of a folder, what `params` freeze frozen.

    Raises:
        SourceError: when the folder holds no model, or a tokenizer that a bundle can't hold.
        ParamsError: when the parameters don't fit the model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights)
        model = TextClassifier.from_pretrained(weights, labels, params.dropout)
    # What transformers raises for a folder that is not a model, or for a file that was cut off.
    except (OSError, ValueError, SafetensorError) as error:
        reason = get_first_line(error)
        raise SourceError(f"{weights}: not a model that transformers loads ({reason}). Name another.") from error
    name = "train.warm_start" if params.warm_start else "train.base_model"
    _check_tokenizer(tokenizer, f"{name}: {weights}")
    if tokenizer.pad_token is None:  # GPT-2's kind; what pads is masked, so the end token does as well
        if tokenizer.eos_token is None:
            raise SourceError(f"{name}: {weights} has neither a token that pads nor one that ends. Name another model.")
        tokenizer.pad_token = tokenizer.eos_token
        model.encoder.config.pad_token_id = tokenizer.pad_token_id
    model.set_encoder_dropout(params.encoder_dropout)
    model.freeze(params.freeze_embeddings, params.freeze_layers)
    limit = min(tokenizer.model_max_length, count_positions(model.encoder))
    if params.max_length > limit:
        raise ParamsError(
            f"train.max_length: found {params.max_length}, but this model reads {limit} tokens. Set it to fewer."
        )
    return tokenizer, model


def count_positions(encoder: Any) -> int:
    """How many tokens an encoder reads; RoBERTa's kind keeps the positions up to the padding's for itself."""
    limits = [getattr(encoder.config, "max_position_embeddings", None) or 2**31]
    for module in encoder.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            kept = 0 if table.padding_idx is None else table.padding_idx + 1
            limits.append(table.num_embeddings - kept)
    return min(limits)


def _check_tokenizer(tokenizer: Any, place: str) -> None:
    """Check that `tokenizer.json`, all that a bundle has of a tokenizer, gives the same tokens.

    Raises:
        SourceError: when there is none, as of BERTweet's kind, or it gives others.
    """
    kind = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise SourceError(
            f"{place}: its tokenizer ({kind}) can't be written as tokenizer.json, which a bundle needs. Name a model "
            "with a fast tokenizer."
        )
    again = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    again.no_padding()
    again.no_truncation()
    if again.encode(_PROBE).ids != tokenizer(_PROBE)["input_ids"]:
        raise SourceError(
            f"{place}: its tokenizer ({kind}) gives other tokens once it is written as tokenizer.json, which a bundle "
            "needs. Name another model."
        )
