"""The classifier in torch: any transformer encoder, the mean of its token vectors, one linear layer."""

import json
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from evergreen.bundle import hash_files
from evergreen.params import ParamsError

WEIGHTS, HEAD, LABELS = "model.safetensors", "head.safetensors", "labels.json"


class TextClassifier(nn.Module):
    """Maps token ids and mask, both [batch, tokens], to logits [batch, labels] and embeddings [batch, hidden].

    The mean over tokens is what sentence encoders are trained for, and it is the embedding that the monitor
    compares between windows (Reimers and Gurevych, Sentence-BERT, EMNLP 2019).
    """

    def __init__(self, encoder: Any, num_labels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, num_labels)
        self._frozen: list[nn.Module] = []

    @classmethod
    def from_pretrained(cls, folder: Path, labels: list[str], dropout: float = 0.0) -> Self:
        """Load an encoder, and with it the head when one for the same labels is there (a champion's weights)."""
        model = cls(AutoModel.from_pretrained(folder, dtype="float32"), len(labels), dropout)
        head_labels = folder / LABELS
        if head_labels.exists() and json.loads(head_labels.read_text(encoding="utf-8")) == labels:
            model.head.load_state_dict(load_file(folder / HEAD))
        return model

    def save_pretrained(self, folder: Path, labels: list[str]) -> None:
        """Write a folder that this class and, for the encoder, any `from_pretrained` reads."""
        self.encoder.save_pretrained(folder)
        save_file({name: value.contiguous() for name, value in self.head.state_dict().items()}, folder / HEAD)
        (folder / LABELS).write_text(json.dumps(labels) + "\n", encoding="utf-8")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Classify a padded batch; padding does not count."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        embedding = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return {"logits": self.head(self.dropout(embedding)), "sentence_embedding": embedding}

    def set_encoder_dropout(self, probability: float) -> None:
        """Set every dropout inside the encoder, of hidden states and of attention."""
        for module in self.encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability

    def freeze(self, embeddings: bool, layers: int) -> None:
        """Keep the weights of the embeddings and of the lowest `layers` as they are.

        Raises:
            ParamsError: when the encoder has fewer layers, or its layers or embeddings are not recognized.
        """
        if embeddings:
            try:
                self._frozen.append(self.encoder.get_input_embeddings())
            except NotImplementedError as error:
                raise ParamsError(
                    "train.freeze_embeddings: this model's embeddings are not recognized. Set it to false."
                ) from error
            if isinstance(getattr(self.encoder, "embeddings", None), nn.Module):
                self._frozen.append(self.encoder.embeddings)
        if layers:
            stack = find_layers(self.encoder)
            if layers > len(stack):
                raise ParamsError(
                    f"train.freeze_layers: found {layers}, but this model has {len(stack)} layers. Set it to fewer."
                )
            self._frozen += list(stack)[:layers]
        for module in self._frozen:
            module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on or off; what is frozen has none, which saves a tenth of the training's time."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def hash_weights(folder: Path) -> str:
    """Hash the weights that `save_pretrained` wrote."""
    return hash_files(folder / WEIGHTS, folder / HEAD)


def find_layers(encoder: Any) -> nn.ModuleList:
    """Return the stack of transformer layers: the longest module list, whatever the architecture calls it.

    Raises:
        ParamsError: when the encoder has none.
    """
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ParamsError("train.freeze_layers: this model has no stack of layers. Set it to 0.")
    return max(lists, key=len)
