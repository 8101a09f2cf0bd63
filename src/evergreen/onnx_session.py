"""An ONNX model of a bundle, loaded to run."""

from pathlib import Path

import onnxruntime

from evergreen.bundle import BundleError


def load_session(file: Path, num_threads: int | None) -> onnxruntime.InferenceSession:
    """Load a model on the processor; `num_threads` None leaves their number to ONNX Runtime.

    Raises:
        BundleError: when ONNX Runtime does not load it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises nothing narrower
        raise BundleError(f"{file}: not a model that ONNX Runtime loads ({error}). Make the bundle again.") from error
