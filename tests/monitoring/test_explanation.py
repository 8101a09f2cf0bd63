from datetime import date

import numpy as np
from monitored import make_window

from evergreen.monitoring.explanation import compare_topics, find_new_terms, find_typical_texts
from evergreen.params import Topic


def test_new_terms_are_the_surely_more_frequent_ones() -> None:
    reference = [f"the flight was late {'again' if i % 3 else ''}" for i in range(200)]
    current = [f"the phone was late {'again' if i % 3 else ''} {'rare' if i < 2 else ''}" for i in range(200)]
    terms = find_new_terms(reference, current)
    assert terms[0].term == "phone"
    assert str(terms[0]) == "phone (0.0% → 100.0%)"
    assert "rare" not in {term.term for term in terms}
    assert not any("phone" in term.term for term in terms[1:])  # a pair adds nothing to its word
    assert find_new_terms(reference, reference) == []


def test_terms_of_nothing() -> None:
    assert find_new_terms([], ["a text"]) == []
    assert find_new_terms(["..."], ["!!!"]) == []


def test_typical_texts_lie_where_the_window_moved() -> None:
    reference = make_window(3, embeddings=np.eye(4, dtype=np.float32)[:3], texts=["a", "b", "c"])
    moved = np.array([[1, 0, 0, 0], [0, 0.1, 0, 1], [0, 0.1, 0.01, 1], [0, 0, 0.8, 0.8]], np.float32)
    current = make_window(4, embeddings=moved, texts=["old", "new", "new too", "half"])
    texts = find_typical_texts(reference, current, 2)
    assert [(text.text, text.nearest) for text in texts] == [("new", "b"), ("half", "c")]
    assert find_typical_texts(reference, make_window(0)) == []


def test_topics_are_sorted_by_how_far_they_moved() -> None:
    topics = [Topic(name=name, pattern=name, start=date(2026, 1, 1), days=1) for name in ("air", "phone")]
    shares = compare_topics(["air"] * 9 + ["phone"], ["air"] * 5 + ["phone"] * 2 + ["x"] * 3, topics)
    assert [(share.topic, share.reference, share.current) for share in shares] == [
        ("air", 0.9, 0.5),
        ("other", 0.0, 0.3),
        ("phone", 0.1, 0.2),
    ]
    assert compare_topics([], [], topics) == []
