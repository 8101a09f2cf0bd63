"""Small videos that tests make, and parameters that are right for them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from evergreen.params import Params

ROOT = Path(__file__).parents[1]
REDUCED: dict[str, dict[str, Any]] = {
    "video": {
        "sequence_frames": 12,
        "synthetic_sequences": 8,
        "train_kinds": ["patch"],
        "test_kinds": ["skip"],
    },
    "clips": {"height": 32, "width": 48, "window": 8, "stride": 4, "cut_threshold": 60.0},
    "diffusion": {"channels": [8, 16], "steps": 150, "batch_size": 8, "crop_size": 24, "checkpoint_steps": 50},
    "reconstruction": {"timesteps": [100, 300], "batch_size": 4},
    "cnn_lstm": {
        "block": 8,
        "channels": 4,
        "hidden_size": 4,
        "members": 2,
        "steps": 40,
        "evaluation_steps": 10,
        "cost_ratio": 0.2,
    },
    "evaluate": {"n_resamples": 100},
}


def write_video(path: Path, images: Any, fps: int = 10, times: list[int] | None = None, **options: Any) -> Path:
    """Encode RGB images as H.264; `times` are their time stamps in milliseconds."""
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": "10"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = times[number] if times else number * 1000 // fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def draw_scene(count: int, first: int = 0, height: int = 64, width: int = 96) -> np.ndarray:
    """RGB images of a still, textured scene in which a bright square walks to and fro, [count, height, width, 3]."""
    texture = np.random.default_rng(0).integers(60, 120, (height // 8, width // 8, 1)).repeat(8, 0).repeat(8, 1)
    images = np.repeat(texture[None], count, axis=0).repeat(3, 3).astype(np.uint8)
    reach = width - 16
    for number, image in enumerate(images, first):
        left = abs((2 * number) % (2 * reach) - reach)
        image[24:40, left : left + 16] = 220
    return images


def add_intruder(images: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The scene with a striped block that was never seen, and that jumps about, in some of its frames."""
    changed = images.copy()
    stripes = np.where(np.arange(20) % 6 < 3, 255, 0).astype(np.uint8)
    for number in range(start, min(stop, len(images))):
        top, left = 4 + 17 * number % 36, 4 + 31 * number % 68
        changed[number, top : top + 20, left : left + 20] = stripes[:, None]
    return changed


def reduce_params(**changes: Any) -> Params:
    """The parameters of the repository with the video pipeline's reduced, and `changes` of the section `video`."""
    params = Params.load(ROOT / "params.yaml")
    raw = params.model_dump(mode="json")
    for section, values in REDUCED.items():
        raw[section] |= values
    raw["video"] |= changes
    return Params.parse(raw)
