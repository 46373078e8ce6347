"""A question as it is searched: its own words, and those that it leaves to the conversation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kdcube.docs.searching.words import content_words

MAX_WORDS = 24
"""Of a question; more of them are a text, whose first words are searched."""
_LOOK_BACK = 3
"""So many questions before this one at most."""
_FEW_WORDS = 2
_POINTING = re.compile(
    r"^(and|but|or|so|then|also|what about|how about|why|why not|ok|okay|yes|no)\b|"
    r"\b(it|its|that|this|those|these|they|them|their|there|one|ones|same|above|former|latter|else|more)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    words: tuple[str, ...]
    """What it asks for itself; empty for one such as "Hello"."""
    context: tuple[str, ...] = ()
    """Words of the questions that it goes on from, the nearest first."""


def read_question(text: str, before: Sequence[str]) -> Question:
    """``before`` are the user's earlier messages, oldest first.

    A question that points back ("and how do I change it?"), or that has two words or fewer of its own, goes on from
    the questions before it, back to one that stands for itself, three at most.
    """
    own = content_words(text)[:MAX_WORDS]
    context: list[str] = []
    if before and _goes_on(text, own):
        for earlier in list(reversed(before))[:_LOOK_BACK]:
            said = content_words(earlier)[:MAX_WORDS]
            context += [word for word in said if word not in own and word not in context]
            if said and not _goes_on(earlier, said):
                break
    return Question(text, tuple(own), tuple(context))


def _goes_on(text: str, own: Sequence[str]) -> bool:
    return len(own) <= _FEW_WORDS or _POINTING.search(text.strip()) is not None
