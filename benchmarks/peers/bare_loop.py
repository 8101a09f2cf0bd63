"""The limit for batch: ONNX Runtime in two processes of one thread over length-sorted batches, and nothing else.

    python bare_loop.py bare|evergreen IN OUT

Prints texts per second of the whole job, its processes' start included, for the loop or for `evergreen batch`.
"""

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from evergreen.serving.batch import run_batch

BUNDLE = Path(__file__).parents[2] / "models/text"
BATCH_SIZE = 32


def predict(texts: list[str]) -> int:
    """Tokenize, sort by length and run; return the number of texts."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(BUNDLE / "model.onnx"), options)
    tokenizer = Tokenizer.from_file(str(BUNDLE / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(96)
    ids = sorted((row.ids for row in tokenizer.encode_batch_fast(texts)), key=len)
    for start in range(0, len(ids), BATCH_SIZE):
        batch = ids[start : start + BATCH_SIZE]
        tokens = np.zeros((len(batch), len(batch[-1])), np.int64)
        mask = np.zeros_like(tokens)
        for row, values in enumerate(batch):
            tokens[row, : len(values)] = values
            mask[row, : len(values)] = 1
        session.run(["logits"], {"input_ids": tokens, "attention_mask": mask})
    return len(texts)


def main() -> None:
    """Do the job one way or the other."""
    way, source, target = sys.argv[1:]
    start = time.perf_counter()
    if way == "evergreen":
        n_texts = run_batch(source, target, BUNDLE, processes=2).predicted
    else:
        texts = [json.loads(line)["text"] for line in Path(source).read_text(encoding="utf-8").splitlines()]
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            n_texts = sum(pool.map(predict, [texts[::2], texts[1::2]]))
    print(n_texts / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
