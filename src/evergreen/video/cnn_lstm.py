"""The judge of error maps: a CNN over each frame, an LSTM over time, one logit per frame and one per window."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, avg_pool2d, conv2d, pad, relu, softplus

from evergreen.params import CnnLstmParams

Floats = NDArray[np.float32]


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


@dataclass(frozen=True)
class BlockStatistics:
    """Of the logarithms of normal errors, each [timesteps]: of all blocks, and of each frame's largest."""

    mean: Floats
    std: Floats
    largest_mean: Floats
    largest_std: Floats


class CnnLstm(nn.Module):
    """Answers 1 or 0 from reconstruction errors.

    Its starting point is a plain score, the largest block's error smoothed over time; CNN and LSTM begin as corrections
    of zero, so that training can only add what validation confirms.

    Args:
        bidirectional: whether a frame is judged by what follows as well; not in a stream.
    """

    mean: Tensor
    std: Tensor
    largest_mean: Tensor
    largest_std: Tensor

    def __init__(self, statistics: BlockStatistics, params: CnnLstmParams, bidirectional: bool) -> None:
        super().__init__()
        num_timesteps = len(statistics.mean)
        self.block, self.smoothing, self.bidirectional = params.block, params.smoothing, bidirectional
        self.register_buffer("mean", torch.from_numpy(statistics.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.from_numpy(statistics.std).view(-1, 1, 1))
        # In standard deviations of all blocks, as the maps are.
        self.register_buffer(
            "largest_mean", torch.from_numpy((statistics.largest_mean - statistics.mean) / statistics.std)
        )
        self.register_buffer("largest_std", torch.from_numpy(statistics.largest_std / statistics.std))
        widths = [num_timesteps, *[params.channels] * (params.layers - 1), num_timesteps]
        self.convolutions = nn.ModuleList(NonNegativeConv(*pair) for pair in pairwise(widths))
        self.refinement = nn.Parameter(torch.zeros(()))
        self.lstm = nn.LSTM(num_timesteps, params.hidden_size, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(params.hidden_size * (1 + bidirectional), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.scale = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def calibrate(self, scale: float, offset: float) -> None:
        """Set what the plain score is multiplied by and what is added, to make it a logit."""
        with torch.no_grad():
            self.scale.fill_(scale)
            self.offset.fill_(offset)

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
        maps = (blocks.flatten(0, 1) - self.mean) / self.std
        refined = maps
        for convolution in self.convolutions:
            refined = convolution(relu(refined))
        hidden, _ = self.lstm(self._measure_largest(maps + self.refinement * refined, blocks.shape))
        plain = self._smooth(self._measure_largest(maps, blocks.shape).mean(-1))
        logits = self.scale * plain + self.offset + self.head(hidden).squeeze(-1)
        # Between their mean and their maximum (Pinheiro and Collobert, CVPR 2015).
        top = logits.amax(1, keepdim=True)
        return logits, (logits - top).exp().mean(1).log() + top.squeeze(1)

    def _measure_largest(self, maps: Tensor, shape: torch.Size) -> Tensor:
        """The largest block of each map, in standard deviations from what it is in normal frames."""
        return ((maps.amax((2, 3)) - self.largest_mean) / self.largest_std).reshape(*shape[:3])

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
