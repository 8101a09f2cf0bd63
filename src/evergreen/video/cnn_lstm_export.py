"""The CNN+LSTM as production runs it, and the check that the bundle gives the scores of its torch models."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evergreen.bundle import BundleError
from evergreen.onnx_export import export_onnx
from evergreen.params import ClipParams
from evergreen.video.bundle import CNN_LSTM, CNN_LSTM_CAUSAL
from evergreen.video.cnn_lstm import CnnLstm
from evergreen.video.crf import MAX_FRAMES
from evergreen.video.detector import load_judge
from evergreen.video.metrics import Parity
from evergreen.video.reconstruction import Reconstructor


class ExportError(BundleError):
    """The bundle does not agree with the models that it was made from."""


def export_cnn_lstm(model: CnnLstm, clips: ClipParams, folder: Path) -> None:
    """Write a CNN+LSTM as ONNX, for windows of any length."""
    folder.mkdir(parents=True, exist_ok=True)
    model = copy.deepcopy(model)
    for member in model.members:
        member.lstm = _OnnxLstm(member.lstm)
    windows, frames = (torch.export.Dim(name, min=1, max=MAX_FRAMES) for name in ("windows", "frames"))
    example = (torch.zeros(2, clips.window, len(model.mean), clips.height, clips.width),)
    names = ["errors"], ["frame_logits", "window_logits"]
    file = folder / (CNN_LSTM if model.bidirectional else CNN_LSTM_CAUSAL)
    onnx.save(export_onnx(model, example, ({0: windows, 1: frames},), *names), file)


class _OnnxLstm(nn.Module):
    """An LSTM as the operator that ONNX has for it; torch's exporter writes a loop, and only once per process."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        ends = ["_l0", "_l0_reverse"][: 1 + lstm.bidirectional]

        def stack(*names: str) -> Tensor:
            return torch.stack([torch.cat([_reorder(getattr(lstm, name + end)) for name in names]) for end in ends])

        self.register_buffer("input_weights", stack("weight_ih"))
        self.register_buffer("hidden_weights", stack("weight_hh"))
        self.register_buffer("biases", stack("bias_ih", "bias_hh"))
        self.hidden_size = lstm.hidden_size
        self.direction = "bidirectional" if lstm.bidirectional else "forward"

    def forward(self, features: Tensor) -> tuple[Tensor, None]:
        """Hidden states, [windows, frames, hidden size · directions], of features [windows, frames, size]."""
        windows, frames = features.shape[:2]
        (hidden,) = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (features.transpose(0, 1), self.input_weights, self.hidden_weights, self.biases),
            {"hidden_size": self.hidden_size, "direction": self.direction},
            dtypes=(torch.float32,),
            shapes=((frames, len(self.biases), windows, self.hidden_size),),
        )
        # [frames, directions, windows, hidden size]
        return hidden.permute(2, 0, 1, 3).reshape(windows, frames, -1), None


def _reorder(weights: Tensor) -> Tensor:
    """Gates as ONNX orders them: input, output, forget, cell; torch has forget, cell, output after input."""
    into, forget, cell, out = weights.detach().chunk(4)
    return torch.cat([into, out, forget, cell])


def check_parity(
    images: NDArray[np.uint8],
    reconstructors: tuple[Reconstructor, Reconstructor],
    models: Sequence[CnnLstm],
    folder: Path,
    max_difference: float,
) -> Parity:
    """Compare the bundle in `folder` with torch, and a window alone with the same one in a batch, on real frames.

    Args:
        images: at least two, [frames, height, width, channels].
        reconstructors: with torch and with ONNX.
        models: the CNN+LSTMs.

    Raises:
        ExportError: when scores differ by more than `max_difference`.
    """
    expected, errors = (np.stack(list(reconstruct(images))) for reconstruct in reconstructors)
    windows = np.stack([errors, errors[::-1], np.roll(errors, 1, axis=0)])
    torch_difference, batch_difference = [], []
    for model in models:
        judge = load_judge(folder / (CNN_LSTM if model.bidirectional else CNN_LSTM_CAUSAL))
        with torch.inference_mode():
            wanted = model(torch.from_numpy(expected)[None])
        alone, batched = judge(windows[:1]), judge(windows)
        for want, single, several in zip(wanted, alone, batched, strict=True):
            torch_difference.append(_compare(want.numpy(), single))
            batch_difference.append(_compare(single, several[:1]))
    error_difference = float(np.abs(expected - errors).max())
    parity = Parity(
        n_frames=len(images),
        max_error_difference=error_difference,
        max_score_difference=max(torch_difference),
        batch_max_score_difference=max(batch_difference),
    )
    if not max(*torch_difference, *batch_difference) <= max_difference:
        raise ExportError(
            f"the bundle's scores differ by {max(torch_difference):.2g} from torch's, and in a batch by "
            f"{max(batch_difference):.2g}; video.max_difference allows {max_difference:g}."
        )
    return parity


def _compare(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Largest difference of the probabilities that two arrays of logits stand for."""
    return float(np.abs(np.tanh(left / 2) - np.tanh(right / 2)).max() / 2)
