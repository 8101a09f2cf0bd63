"""A real classifier of the default texts, trained within seconds: vectors of words, and a linear model on their mean."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tiny_text_bundle import LABELS, write_word_bundle

from evergreen.params import Params
from evergreen.text.corpus import prepare

ROOT = Path(__file__).parents[1]
N_WORDS = 6000
WIDTH = 100


def prepare_texts(folder: Path) -> Path:
    """Prepare the default texts as the first stage does."""
    prepare(Params.load(ROOT / "params.yaml").data, folder)
    return folder


def train_bundle(data: Path, folder: Path) -> Path:
    """Fit on the training texts of a prepared folder."""
    train = pd.read_parquet(data / "train.parquet")
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+", max_features=N_WORDS, sublinear_tf=True)
    texts = vectorizer.fit_transform(train["text"])
    words = ["[UNK]", *vectorizer.get_feature_names_out()]
    table = TruncatedSVD(WIDTH - 1, random_state=0).fit(texts).components_.T * vectorizer.idf_[:, None]
    table = np.vstack([np.zeros(WIDTH - 1), table / np.abs(table).std()])
    table = np.hstack([table, np.ones((len(words), 1))])  # its mean is 1: the intercept
    position = {word: i for i, word in enumerate(words)}
    split = vectorizer.build_analyzer()
    means = np.array([table[[position.get(word, 0) for word in split(text)] or [0]].mean(0) for text in train["text"]])
    model = LogisticRegression(C=10, max_iter=2000, fit_intercept=False).fit(means, train["label"])
    assert list(model.classes_) == LABELS
    return write_word_bundle(folder, words, table, model.coef_.T, temperature=1.0)
