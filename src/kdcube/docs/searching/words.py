"""Text as words that can be compared: without case, accents and endings, as the index has them."""

from __future__ import annotations

import re
import threading
import unicodedata
from functools import lru_cache
from importlib import resources
from typing import Any, cast

import Stemmer

_WORD = re.compile(r"[^\W_]+")
STOPWORDS = frozenset((resources.files("kdcube.docs.searching") / "stopwords.txt").read_text().split())

_stemmer = cast("Any", Stemmer).Stemmer("porter")  # what FTS5 calls porter
_stemming = threading.Lock()


@lru_cache(65_536)
def stem(word: str) -> str:
    """``word`` is one of ``words``."""
    with _stemming:
        return _stemmer.stemWord(word)


def words(text: str) -> list[str]:
    """In order, with repeats."""
    folded = unicodedata.normalize("NFKD", text.lower())
    return _WORD.findall("".join(part for part in folded if not unicodedata.combining(part)))


def stems(text: str) -> list[str]:
    return [stem(word) for word in words(text)]


def content_words(text: str) -> list[str]:
    """What a question is about: its words without those that say nothing, once each, in order."""
    return list(dict.fromkeys(word for word in words(text) if word not in STOPWORDS))
