"""The process that predicts: a LitServe worker whose loop takes its work from the server's socket.

LitServe's own queue costs two trips through a third process for each request; docs/decisions/0011 has the figures.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from litserve import LitAPI
from litserve.loops.base import LitLoop

from evergreen.bundle import BundleError
from evergreen.logs import configure, get_logger
from evergreen.serving.wire import Message, encode, receive_all
from evergreen.text.bundle import Bundle
from evergreen.text.runtime import Classifier

MICRO_BATCH = 8
"""Texts of like length that one run of the model takes: more of them waste more on padding than they save."""

NICENESS = 10
"""Below the server's: its short work, that keeps all workers busy, must not wait for a long one of theirs."""

logger = get_logger(__name__)


class TextAPI(LitAPI):
    """Loads the text bundle in a worker and predicts batches.

    Args:
        address: Unix socket that the server hands out work on.
        bundle: link to the folder of the bundle that is served now.
        lone_threads: for a batch that comes while all workers are idle; the first worker takes those.
        log_level: of the worker's structured log.
    """

    def __init__(self, address: Path, bundle: Path, lone_threads: int, log_level: str) -> None:
        super().__init__(api_path="/v1/classify", loop=SocketLoop(address))
        self._bundle = bundle
        self._lone_threads = lone_threads
        self._log_level = log_level

    def setup(self, device: Any) -> None:
        """Load the bundle, one processor thread each: as many workers as processors leave none idle."""
        del device
        configure(self._log_level)
        self.load(self._bundle)

    def load(self, bundle: Path) -> None:
        """Load a bundle; on an error the one before it stays.

        Raises:
            BundleError: when it is damaged.
        """
        verified = Bundle.load(bundle.resolve())
        classifier = Classifier(verified, num_threads=1)
        lone = Classifier(verified, self._lone_threads) if self.takes_lone else classifier
        for each in (classifier, lone):
            each("the first run allocates")
        self.classifier, self._lone = classifier, lone

    @property
    def takes_lone(self) -> bool:
        """Whether this is the worker that has more threads for a lone batch."""
        return self._lone_threads > 1 and os.environ.get("LITSERVE_WORKER_ID") == "0"

    def predict(self, texts: list[str], is_lone: bool = False) -> Message:
        """Predict texts, in their order, with their clean form for the log."""
        classifier = self._lone if is_lone else self.classifier
        y_proba = classifier.predict_proba(texts, batch_size=MICRO_BATCH)
        return {
            "model": self.classifier.manifest.identity,
            "labels": self.classifier.labels,
            "probabilities": y_proba.astype(float).round(6).tolist(),
            "cleaned": [classifier.clean(text) for text in texts],
        }


class SocketLoop(LitLoop):
    """Answers messages until the server closes the socket."""

    def __init__(self, address: Path) -> None:
        super().__init__()
        self._address = address

    def __call__(self, lit_api: TextAPI, *_queues: Any, **_more: Any) -> None:
        """Serve; LitServe calls this in the worker once the model is loaded."""
        os.nice(NICENESS)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server ends its workers
        with suppress(ConnectionError), _connect(self._address) as connection:  # a server that was killed
            model = lit_api.classifier.manifest.identity
            connection.sendall(encode({"pid": os.getpid(), "model": model, "takes_lone": lit_api.takes_lone}))
            for message in receive_all(connection):
                connection.sendall(encode(_answer(lit_api, message)))
        sys.exit(0)


def _answer(api: TextAPI, message: Message) -> Message:
    if bundle := message.get("reload"):
        try:
            api.load(Path(bundle))
        except BundleError as error:
            return {"problem": str(error)}
        return {"model": api.classifier.manifest.identity}
    try:
        return api.predict(message["texts"], message["is_lone"])
    except Exception as error:  # one batch fails, not the worker
        logger.error("a batch failed", error=type(error).__name__, n_texts=len(message["texts"]))
        return {"problem": type(error).__name__}


def _connect(address: Path) -> socket.socket:
    parent = os.getppid()
    while os.getppid() == parent:  # LitServe starts workers before the server
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(address))
        except OSError:
            connection.close()
            time.sleep(0.02)
        else:
            return connection
    sys.exit("the server has gone")
