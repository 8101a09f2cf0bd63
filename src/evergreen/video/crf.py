"""The last layer of the CNN+LSTM: frames that follow each other mostly have the same label."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

MAX_FRAMES = 1024
"""Of a window."""
_NEVER = -1e9


class LinearChainCrf(nn.Module):
    """A linear-chain conditional random field over two labels that are equally rare to leave.

    What each frame's logit says is weighed against what its neighbors' say, by forward-backward (Lafferty et al., ICML
    2001; on top of an LSTM: Huang et al., arXiv:1508.01991), so that one frame changes little and a run much.

    Args:
        change_rate: the chance that the next frame has another label.
        bidirectional: whether what follows counts as well.
    """

    transitions: Tensor

    def __init__(self, change_rate: float, bidirectional: bool) -> None:
        super().__init__()
        change, stay = math.log(change_rate), math.log1p(-change_rate)
        self.register_buffer("transitions", torch.tensor([[stay, change], [change, stay]]))
        self.bidirectional = bidirectional

    def forward(self, logits: Tensor) -> Tensor:
        """Log odds of each frame's label given all logits, [..., frames]; of what was before, in a stream."""
        if not self.bidirectional:
            return self._filter(logits)
        # The chain is the same in reverse; a frame's own logit is in both directions.
        forward, backward = self._filter(torch.stack([logits, logits.flip(-1)]))
        return forward + backward.flip(-1) - logits

    def _filter(self, logits: Tensor) -> Tensor:
        """Log odds given the logits up to each frame: products of 2 × 2 matrices, by doubling their number.

        A recursion over frames would be a loop in ONNX, whose number of frames is not fixed.
        """
        products = self.transitions + torch.stack([torch.zeros_like(logits), logits], -1).unsqueeze(-2)
        frames = logits.shape[-1]
        for level in range(MAX_FRAMES.bit_length() - 1):
            earlier = pad(products, (0, 0, 0, 0, 2**level, 0), value=_NEVER)[..., :frames, :, :]
            is_first = pad(torch.zeros_like(logits), (2**level, 0), value=1.0)[..., :frames, None, None]
            earlier = earlier - _NEVER * is_first * torch.eye(2)
            products = torch.logsumexp(earlier.unsqueeze(-1) + products.unsqueeze(-3), -2)
        scores = torch.logsumexp(products, -2)  # either label is as likely before the first frame
        return scores[..., 1] - scores[..., 0]
