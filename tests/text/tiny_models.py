"""Tiny random models of real architectures, with tokenizers trained on the spot."""

from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertweetTokenizer,
    GPT2Config,
    GPT2Model,
    GPT2Tokenizer,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

TEXTS = ["the flight was late and my bag was lost", "gate seat boarding", "thanks, love the crew!"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_gpt2(folder: Path) -> Path:
    """Causal, positions from 0, no token for padding."""
    tokenizer = _train_bpe(folder, ["<|endoftext|>"])
    GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=64).save_pretrained(folder)
    end = tokenizer.token_to_id("<|endoftext|>")
    shape = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=tokenizer.get_vocab_size(), bos_token_id=end, eos_token_id=end, **shape)
    return _save(GPT2Model, config, folder)


def write_roberta(folder: Path) -> Path:
    """Reads two tokens less than it has positions."""
    tokenizer = _train_bpe(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    RobertaTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return _save(RobertaModel, _configure_roberta(tokenizer.get_vocab_size()), folder)


def write_bertweet(folder: Path) -> Path:
    """RoBERTa's weights, and a tokenizer in Python alone."""
    (folder / "vocab.txt").write_text("flight 9\nlate 8\nl@@ 7\nate 6\n")
    (folder / "bpe.codes").write_text("l a 9\nla t 8\n")
    BertweetTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes")).save_pretrained(folder)
    return _save(RobertaModel, _configure_roberta(16), folder)


def _train_bpe(folder: Path, special: list[str]) -> ByteLevelBPETokenizer:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS, vocab_size=320, special_tokens=special)
    tokenizer.save_model(str(folder))
    return tokenizer


def _configure_roberta(vocab_size: int) -> RobertaConfig:
    return RobertaConfig(vocab_size=vocab_size, intermediate_size=64, max_position_embeddings=66, **SHAPE)


def _save(kind: type[PreTrainedModel], config: object, folder: Path) -> Path:
    torch.manual_seed(1)
    kind(config).save_pretrained(folder)
    return folder
