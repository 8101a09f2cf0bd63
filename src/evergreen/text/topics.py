"""What a text is about, told by the patterns of `data.topics`."""

import re
from collections.abc import Iterable, Sequence

from evergreen.params import Topic

OTHER = "other"


def match_topics(texts: Iterable[str], topics: Sequence[Topic]) -> list[str]:
    """Name the first topic whose pattern each text matches, or `other`."""
    patterns = [(topic.name, re.compile(topic.pattern, re.IGNORECASE)) for topic in topics if topic.pattern]
    return [next((name for name, pattern in patterns if pattern.search(text)), OTHER) for text in texts]
