"""The video pipeline: a diffusion model's reconstruction errors, judged by a CNN+LSTM that answers 1 or 0."""
