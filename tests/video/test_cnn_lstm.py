"""The CNN+LSTM: where it starts, what it may look at, and that ONNX gives its answers."""

import numpy as np
import pytest
import torch
from footage import reduce_params

from evergreen.params import ClipParams
from evergreen.video.bundle import CNN_LSTM, CNN_LSTM_CAUSAL
from evergreen.video.cnn_lstm import BlockStatistics, CnnLstm, pool_blocks
from evergreen.video.cnn_lstm_export import export_cnn_lstm
from evergreen.video.crf import LinearChainCrf
from evergreen.video.detector import load_judge

PARAMS = reduce_params().cnn_lstm
STATISTICS = BlockStatistics(
    *(
        np.array(values, np.float32)
        for values in ([-5.0, -4.0], [1.0, 0.5], [-3.0, -3.5], [0.4, 0.2], [-4.5, -3.9], [0.3, 0.1])
    )
)
CHANGE_RATE = 0.1
CLIPS = ClipParams(height=24, width=40, color=False, window=8, stride=4)


def make_model(bidirectional: bool, trained: bool = True) -> CnnLstm:
    torch.manual_seed(0)
    model = CnnLstm(STATISTICS, PARAMS, CHANGE_RATE, bidirectional)
    model.calibrate([2.0, 0.5], -3.0)
    if trained:
        for member in model.members:
            torch.nn.init.normal_(member.head.weight)
            torch.nn.init.constant_(member.refinement, 0.1)
    return model.eval()


def make_errors(windows: int = 2, frames: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(windows * 100 + frames)
    return torch.rand(windows, frames, 2, 24, 40, generator=generator) * 0.05


def judge(model: CnnLstm, errors: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        frame_logits, window_logits = model(errors)
    return frame_logits.numpy(), window_logits.numpy()


@pytest.mark.parametrize("bidirectional", [True, False])
def test_it_starts_as_the_largest_and_average_error_among_its_neighbors(bidirectional):
    model, errors = make_model(bidirectional, trained=False), make_errors(1)
    blocks = pool_blocks(errors[0], PARAMS.block).numpy()
    largest = ((blocks.max((2, 3)) - [-3.0, -3.5]) / [0.4, 0.2]).mean(1)
    average = ((blocks.mean((2, 3)) - [-4.5, -3.9]) / [0.3, 0.1]).mean(1)
    logits = torch.from_numpy(2 * largest[None] + 0.5 * average[None] - 3).float()
    expected = LinearChainCrf(CHANGE_RATE, bidirectional)(logits)
    assert judge(model, errors)[0] == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_more_error_is_more_evidence_to_begin_with(bidirectional):
    model, errors = make_model(bidirectional, trained=False), make_errors(1)
    worse = errors.clone()
    worse[0, 4, :, 8:16, 8:24] += 0.5
    assert judge(model, worse)[0][0, 4] > judge(model, errors)[0][0, 4]
    assert judge(model, worse)[1][0] > judge(model, errors)[1][0]


def test_the_answer_is_the_mean_of_the_members():
    model = make_model(True)
    blocks = pool_blocks(make_errors(1)[0], PARAMS.block)[None]
    with torch.inference_mode():
        alone = model.judge_each([blocks, blocks])
        assert not torch.allclose(alone[0], alone[1], atol=1e-3)
        assert torch.allclose(model.judge(blocks), (alone[0] + alone[1]) / 2, atol=1e-5)


def test_a_window_is_between_its_mean_and_its_highest_frame():
    frame_logits, window_logits = judge(make_model(True), make_errors(5))
    assert (window_logits >= frame_logits.mean(1) - 1e-5).all()
    assert (window_logits <= frame_logits.max(1) + 1e-5).all()


def test_in_a_stream_the_future_does_not_count():
    errors = make_errors(1)
    changed = errors.clone()
    changed[0, 5:] *= 10
    causal, both_ways = make_model(False), make_model(True)
    assert judge(causal, changed)[0][0, :5] == pytest.approx(judge(causal, errors)[0][0, :5], abs=1e-6)
    assert abs(judge(both_ways, changed)[0][0, :5] - judge(both_ways, errors)[0][0, :5]).max() > 1e-3


@pytest.mark.parametrize(("size", "block"), [((24, 40), 8), ((25, 43), 8), ((9, 9), 8), ((12, 20), 3)])
def test_blocks_reach_every_pixel(size, block):
    for row, column in [(0, 0), (size[0] - 1, size[1] - 1)]:
        errors = torch.zeros(1, 1, *size)
        errors[0, 0, row, column] = 1
        assert pool_blocks(errors, block).max() > np.log(0.5 / block**2)


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [True, False])
def test_onnx_gives_the_same_answers_for_windows_of_any_length(bidirectional, tmp_path):
    model = make_model(bidirectional)
    export_cnn_lstm(model, CLIPS, tmp_path)
    run = load_judge(tmp_path / (CNN_LSTM if bidirectional else CNN_LSTM_CAUSAL))
    for windows, frames in [(1, 8), (3, 8), (1, 1), (2, 5), (1, 30)]:
        errors = make_errors(windows, frames)
        for got, expected in zip(run(errors.numpy()), judge(model, errors), strict=True):
            assert got == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_the_same_weights_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        export_cnn_lstm(make_model(True), CLIPS, tmp_path / name)
    assert (tmp_path / "a" / CNN_LSTM).read_bytes() == (tmp_path / "b" / CNN_LSTM).read_bytes()
