from datetime import date

from evergreen.params import Topic
from evergreen.text.topics import match_topics


def test_first_match_counts_and_the_rest_is_other() -> None:
    topics = [
        Topic(name=name, pattern=pattern, start=date(2026, 1, 1), days=1)
        for name, pattern in (("air", "flight|plane"), ("phone", "phone"), ("rest", ""))
    ]
    texts = ["my PLANE and my phone", "Phone!", "nothing", ""]
    assert match_topics(texts, topics) == ["air", "phone", "other", "other"]
