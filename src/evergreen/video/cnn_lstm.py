"""The judge of error maps: a CNN over each frame, an LSTM over time, one logit per frame and one per window."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, avg_pool2d, conv2d, pad, relu, softplus

from evergreen.params import CnnLstmParams


class NonNegativeConv(nn.Module):
    """A 3 × 3 convolution whose weights cannot be negative: more error can only mean more evidence."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # softplus(-3) is about 0.05: small, positive, and a gradient flows.
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) * 0.1 - 3)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps, [frames, inputs, rows, columns]."""
        return conv2d(maps, softplus(self.weight), self.bias, padding=1)


class CnnLstm(nn.Module):
    """Answers 1 or 0 from reconstruction errors.

    Its starting point is a plain score, the largest block's error smoothed over time; CNN and LSTM begin as a
    correction of zero, so that training can only add what validation confirms.

    Args:
        mean, std: of the logarithm of normal blocks' errors, [timesteps].
        bidirectional: whether a frame is judged by what follows as well; not in a stream.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: NDArray[np.float32], std: NDArray[np.float32], params: CnnLstmParams, bidirectional: bool
    ) -> None:
        super().__init__()
        num_timesteps = len(mean)
        self.block, self.smoothing, self.bidirectional = params.block, params.smoothing, bidirectional
        self.register_buffer("mean", torch.from_numpy(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.from_numpy(std).view(-1, 1, 1))
        self.convolutions = nn.ModuleList(
            NonNegativeConv(inputs, params.channels)
            for inputs in (num_timesteps, *[params.channels] * (params.layers - 1))
        )
        size = params.channels + 2 * num_timesteps
        self.lstm = nn.LSTM(size, params.hidden_size, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(params.hidden_size * (1 + bidirectional), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.gain = nn.Parameter(torch.tensor(0.5))  # softplus(0.5) is about 1
        self.offset = nn.Parameter(torch.tensor(3.0))  # standard deviations above normal blocks
        self.sharpness = nn.Parameter(torch.tensor(0.5))

    def forward(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Judge windows.

        Args:
            errors: [windows, frames, timesteps, height, width].

        Returns:
            Logits of the frames, [windows, frames], and of the windows, [windows].
        """
        blocks = pool_blocks(errors.flatten(0, 1), self.block)
        return self.judge(blocks.reshape(*errors.shape[:2], *blocks.shape[1:]))

    def judge(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Judge windows whose errors `pool_blocks` has pooled; see `forward`."""
        windows, frames = blocks.shape[:2]
        maps = (blocks.flatten(0, 1) - self.mean) / self.std
        largest = maps.amax((2, 3)).reshape(windows, frames, -1)
        average = maps.mean((2, 3)).reshape(windows, frames, -1)
        for convolution in self.convolutions:
            maps = relu(convolution(maps))
        features = torch.cat([maps.amax((2, 3)).reshape(windows, frames, -1), largest, average], -1)
        hidden, _ = self.lstm(features)
        plain = softplus(self.gain) * (self._smooth(largest.mean(-1)) - self.offset)
        logits = plain + self.head(hidden).squeeze(-1)
        # Between their mean and their maximum (Pinheiro and Collobert, CVPR 2015).
        sharpness = softplus(self.sharpness)
        top = logits.amax(1, keepdim=True)
        window_logits = ((sharpness * (logits - top)).exp().mean(1).log() / sharpness) + top.squeeze(1)
        return logits, window_logits

    def _smooth(self, scores: Tensor) -> Tensor:
        after = (self.smoothing - 1) // 2 if self.bidirectional else 0
        before = self.smoothing - 1 - after
        padded = pad(scores[:, None], (before, after), mode="replicate")
        return avg_pool1d(padded, self.smoothing, 1)[:, 0]


def pool_blocks(errors: Tensor, block: int) -> Tensor:
    """Logarithms of the means of blocks, half a block apart, of maps [frames, timesteps, height, width]."""
    stride = block // 2
    below, right = (-(size - block) % stride for size in errors.shape[2:])
    padded = pad(errors, (0, right, 0, below), mode="replicate") if below or right else errors
    pooled: Tensor = (avg_pool2d(padded, block, stride) + 1e-6).log()
    return pooled
