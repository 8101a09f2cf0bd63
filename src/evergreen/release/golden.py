"""The golden set: texts with the answers that the bundle gives in process, to hold a running server against."""

import math
from pathlib import Path
from typing import Self

import pandas as pd

from evergreen.bundle import MANIFEST, BaseManifest
from evergreen.errors import EvergreenError
from evergreen.metrics import Metrics
from evergreen.params import Params
from evergreen.text.runtime import Classifier
from evergreen.video.bundle import Bundle as VideoBundle
from evergreen.written import load_written

TEXT_BUNDLE, VIDEO_BUNDLE, TEST = Path("models/text"), Path("models/video"), Path("data/text/test.parquet")


class GoldenError(EvergreenError):
    """There is no golden set; the message names the file and the command that makes it."""

    exit_code = 2


class ServedModel(Metrics):
    """What `/v1/model` says of a bundle that is served."""

    name: str
    version: str
    run: str
    data_hash: str
    sha256: dict[str, str]
    """Of each file."""

    @classmethod
    def of(cls, manifest: BaseManifest) -> Self:
        """Describe a bundle."""
        return cls.model_validate(manifest.model_dump(include=set(cls.model_fields)))

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.run[:12]}"


class GoldenText(Metrics):
    """A text and the bundle's answer."""

    text: str
    label: str
    probabilities: dict[str, float]


class GoldenSet(Metrics):
    """`reports/release/golden.json`."""

    text_model: ServedModel
    video_model: ServedModel | None
    """None where the release has no detector."""
    data_cutoff: str
    """Newest text that was trained on."""
    samples: list[GoldenText]

    @property
    def texts(self) -> list[str]:
        """The texts alone."""
        return [sample.text for sample in self.samples]


def make_golden_set(params: Params) -> GoldenSet:
    """Let the bundle in the current folder answer some texts of its test set.

    Raises:
        BundleError: when a bundle is damaged.
        GoldenError: when there is no test set.
    """
    classifier = Classifier.load(TEXT_BUNDLE, params.evaluate.num_threads)
    texts = _choose_texts(params.release.golden_samples, params.seed)
    answers = zip(texts, classifier.predict(texts), strict=True)
    has_video = (VIDEO_BUNDLE / MANIFEST).exists()
    return GoldenSet(
        text_model=ServedModel.of(classifier.manifest),
        video_model=ServedModel.of(VideoBundle.load(VIDEO_BUNDLE).manifest) if has_video else None,
        data_cutoff=classifier.manifest.data_cutoff,
        samples=[
            GoldenText(text=text, label=answer.label, probabilities=answer.probabilities) for text, answer in answers
        ],
    )


def load_golden_set(file: Path) -> GoldenSet:
    """Read what `make_golden_set` made.

    Raises:
        GoldenError: when it is missing or something else.
    """
    return load_written(GoldenSet, file, "evergreen release golden", GoldenError)


def _choose_texts(count: int, seed: int) -> list[str]:
    """Texts of the test set, as many of each label as there are."""
    try:
        rows = pd.read_parquet(TEST, columns=["text", "label"])
    except FileNotFoundError as error:
        raise GoldenError(f"{TEST}: no such file. Fetch it with dvc pull.") from error
    per_label = math.ceil(count / rows["label"].nunique())
    shuffled = rows.sample(frac=1, random_state=seed)
    shuffled["turn"] = shuffled.groupby("label").cumcount()
    evenly = shuffled[shuffled["turn"] < per_label].sort_values(["turn", "label"], kind="stable")
    return [str(text) for text in evenly["text"].head(count)]
