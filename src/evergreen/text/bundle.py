"""The bundle of the text classifier: `model.onnx`, `tokenizer.json` and `bundle.json`."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, Field

from evergreen.bundle import BaseBundle, BaseManifest

FORMAT = 2
MODEL, TOKENIZER = "model.onnx", "tokenizer.json"


class CleaningRules(BaseModel):
    """The cleaning that the model was trained on."""

    version: int
    public_handles: list[str]


class Manifest(BaseManifest):
    """What its `bundle.json` holds."""

    format: int = FORMAT
    name: str = "text"
    labels: list[str] = Field(min_length=2)
    max_length: int = Field(ge=8)
    """Tokens of a text that are read."""
    temperature: float = Field(gt=0)
    """Logits are divided by it before softmax (Guo et al., 2017)."""
    cleaning: CleaningRules
    weights_hash: str
    """SHA-256 of the torch weights that the model was exported from."""
    data_cutoff: str
    """Newest observation trained on; what came later is new to this model."""
    train_topics: list[str]
    train_samples: int
    """How many texts were trained on, per epoch; with a warm start fewer than the split holds."""
    embedding_size: int
    dtype: str


@dataclass(frozen=True)
class Bundle(BaseBundle[Manifest]):
    """A verified text bundle on disk."""

    manifest_class: ClassVar[type[BaseManifest]] = Manifest
    required_files: ClassVar[tuple[str, ...]] = (MODEL, TOKENIZER)
