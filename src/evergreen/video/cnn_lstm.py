"""The judge of error maps: a CNN over each frame, an LSTM and a CRF over time, a logit per frame and one per window."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad, relu, softplus

from evergreen.params import CnnLstmParams
from evergreen.video.crf import LinearChainCrf

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
    """Of the logarithms of normal errors, each [timesteps]: of all blocks, of each frame's largest, of its average."""

    mean: Floats
    std: Floats
    largest_mean: Floats
    largest_std: Floats
    average_mean: Floats
    average_std: Floats


class Member(nn.Module):
    """A CNN over each frame and an LSTM over time, whose answer is a correction that begins at zero."""

    def __init__(self, num_timesteps: int, params: CnnLstmParams, bidirectional: bool) -> None:
        super().__init__()
        widths = [num_timesteps, *[params.channels] * (params.layers - 1), num_timesteps]
        self.convolutions = nn.ModuleList(NonNegativeConv(*pair) for pair in pairwise(widths))
        self.refinement = nn.Parameter(torch.zeros(()))
        self.lstm = nn.LSTM(num_timesteps, params.hidden_size, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(params.hidden_size * (1 + bidirectional), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def refine(self, maps: Tensor) -> Tensor:
        """Maps, [frames, timesteps, rows, columns], and what the convolutions add to them."""
        refined = maps.contiguous(memory_format=torch.channels_last)  # half the time
        for convolution in self.convolutions:
            refined = convolution(relu(refined))
        return maps + self.refinement * refined

    def correct(self, largest: Tensor) -> Tensor:
        """What to add to the frames' logits, [windows, frames]; from [windows, frames, timesteps]."""
        hidden, _ = self.lstm(largest)
        correction: Tensor = self.head(hidden).squeeze(-1)
        return correction


class CnnLstm(nn.Module):
    """Answers 1 or 0 from reconstruction errors.

    Its starting point is a plain score, the error of the largest block and of all blocks, which a CRF weighs against
    that of the neighboring frames; each member, a CNN and an LSTM, begins as a correction of zero, so that training can
    only add what validation confirms. The answer is the mean of the members' logits.

    Args:
        change_rate: the chance that the next frame has another label.
        bidirectional: whether a frame is judged by what follows as well; not in a stream.
    """

    mean: Tensor
    std: Tensor
    largest_mean: Tensor
    largest_std: Tensor
    average_mean: Tensor
    average_std: Tensor
    weights: Tensor
    offset: Tensor

    def __init__(
        self, statistics: BlockStatistics, params: CnnLstmParams, change_rate: float, bidirectional: bool
    ) -> None:
        super().__init__()
        self.block, self.bidirectional = params.block, bidirectional
        self.register_buffer("mean", torch.from_numpy(statistics.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.from_numpy(statistics.std).view(-1, 1, 1))
        for name in ("largest", "average"):
            # In standard deviations of all blocks, as the maps are.
            mean, std = getattr(statistics, f"{name}_mean"), getattr(statistics, f"{name}_std")
            self.register_buffer(f"{name}_mean", torch.from_numpy((mean - statistics.mean) / statistics.std))
            self.register_buffer(f"{name}_std", torch.from_numpy(std / statistics.std))
        self.register_buffer("weights", torch.tensor([1.0, 0.0]))
        self.register_buffer("offset", torch.zeros(()))
        self.members = nn.ModuleList(Member(len(statistics.mean), params, bidirectional) for _ in range(params.members))
        self.crf = LinearChainCrf(change_rate, bidirectional)

    def calibrate(self, weights: Sequence[float], offset: float) -> None:
        """Set what each of `describe`'s numbers counts in the plain score, and what is added to make it a logit."""
        self.weights.copy_(torch.tensor(weights))
        self.offset.fill_(offset)

    def forward(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Judge windows.

        Args:
            errors: [windows, frames, timesteps, height, width].

        Returns:
            Logits of the frames, [windows, frames], and of the windows, [windows].
        """
        blocks = pool_blocks(errors.flatten(0, 1), self.block)
        logits = self.judge(blocks.reshape(*errors.shape[:2], *blocks.shape[1:]))
        # Between their mean and their maximum (Pinheiro and Collobert, CVPR 2015).
        top = logits.amax(1, keepdim=True)
        return logits, (logits - top).exp().mean(1).log() + top.squeeze(1)

    def judge(self, blocks: Tensor) -> Tensor:
        """Logits of frames, [windows, frames], of errors that `pool_blocks` has pooled: the mean of all members'."""
        return self.judge_each([blocks] * len(self.members)).mean(0)

    def judge_each(self, batches: Sequence[Tensor]) -> Tensor:
        """Logits of frames by each member, [members, windows, frames], of as many batches; see `judge`."""
        logits: Tensor = self.crf(
            torch.stack([self._correct(*pair) for pair in zip(self.members, batches, strict=True)])
        )
        return logits

    def _correct(self, member: nn.Module, blocks: Tensor) -> Tensor:
        maps = self._standardize(blocks)
        correction = member.correct(self._measure_largest(member.refine(maps), blocks.shape))
        logits: Tensor = self._describe(maps, blocks.shape) @ self.weights + self.offset + correction
        return logits

    def describe(self, blocks: Tensor) -> Tensor:
        """The largest and the average block of each frame, in standard deviations from what is normal.

        Args:
            blocks: of `pool_blocks`, [windows, frames, timesteps, rows, columns].

        Returns:
            Means over the timesteps, [windows, frames, 2].
        """
        return self._describe(self._standardize(blocks), blocks.shape)

    def _describe(self, maps: Tensor, shape: torch.Size) -> Tensor:
        average = ((maps.mean((2, 3)) - self.average_mean) / self.average_std).reshape(*shape[:3])
        return torch.stack([self._measure_largest(maps, shape).mean(-1), average.mean(-1)], -1)

    def _standardize(self, blocks: Tensor) -> Tensor:
        return (blocks.flatten(0, 1) - self.mean) / self.std

    def _measure_largest(self, maps: Tensor, shape: torch.Size) -> Tensor:
        """The largest block of each map, in standard deviations from what it is in normal frames."""
        return ((maps.amax((2, 3)) - self.largest_mean) / self.largest_std).reshape(*shape[:3])


def pool_blocks(errors: Tensor, block: int) -> Tensor:
    """Logarithms of the means of blocks, half a block apart, of maps [frames, timesteps, height, width]."""
    stride = block // 2
    below, right = (-(size - block) % stride for size in errors.shape[2:])
    padded = pad(errors, (0, right, 0, below), mode="replicate") if below or right else errors
    pooled: Tensor = (avg_pool2d(padded, block, stride) + 1e-6).log()
    return pooled
