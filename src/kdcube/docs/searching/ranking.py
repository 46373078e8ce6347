"""Orders what BM25 finds by how much of the question each passage covers, and tells whether it is an answer.

BM25 alone likes a passage that repeats one rare word of a question. Its best passages are therefore weighed anew by
the share of the question that they cover: a word counts by its rarity, and one that the whole folder does not know
counts most, so that a question about something else covers little.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kdcube.docs.searching.index import Index, Passage
from kdcube.docs.searching.question import Question
from kdcube.docs.searching.units import Unit, units
from kdcube.docs.searching.words import stem, stems

CANDIDATES = 60
ENOUGH = 0.54
"""Of the question must be covered by the best passage, or the folder has no answer: between what the questions of the
tests that have one cover, and those that have none (see docs/decisions)."""
_CONTEXT_WEIGHT = 0.5
_COVERED, _COVERED_BY_UNIT, _COVERED_BY_HEADING, _NEAR = 1.6, 0.9, 0.8, 0.8
_DEFINING, _LEAD_IN = 1.4, 0.1
_NEAR_WORDS = 6


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each word of the question says, by its stem; those of ``own`` add up to 1."""

    own: Mapping[str, float]
    """In the order of the question."""
    context: Mapping[str, float]
    """Together they say half as much as the question's own."""

    def covered(self, found: Collection[str]) -> float:
        """The share of the question that these stems cover, from 0 to 1."""
        return sum(weight for word, weight in self.own.items() if word in found)

    def covered_with_context(self, found: Collection[str]) -> float:
        return self.covered(found) + sum(weight for word, weight in self.context.items() if word in found)


@dataclass(frozen=True, slots=True)
class Hit:
    passage: Passage
    units: Sequence[Unit]
    score: float
    covered: float
    """Of the question, by the passage with its headings, from 0 to 1."""
    answers: bool
    """It covers enough of the question to be an answer to it."""


@dataclass(frozen=True, slots=True)
class Found:
    """``hits`` are in order, best first; ``enough`` tells whether they are an answer."""

    hits: Sequence[Hit]
    weights: Weights
    enough: bool


def find(index: Index, question: Question) -> Found:
    """Blocks for some milliseconds, or some tens of them with 100,000 passages."""
    weights = _weights(index, question)
    searched = [*question.words, *question.context]
    candidates = index.best(searched, CANDIDATES) if searched else []
    best_rank = max((rank for _, rank in candidates), default=1.0) or 1.0
    hits = [_weighed(passage, rank / best_rank, weights) for passage, rank in candidates]
    hits.sort(key=lambda hit: (-hit.score, hit.passage.path, hit.passage.id))
    return Found(hits, weights, enough=any(hit.answers for hit in hits[:3]))


def _weights(index: Index, question: Question) -> Weights:
    total = max(index.passages, 1)

    def rarity(word: str) -> float:
        return math.log(1 + (total + 0.5) / (index.frequency(word) + 0.5))

    own = {stem(word): rarity(word) for word in question.words}
    context = {stem(word): rarity(word) for word in question.context if stem(word) not in own}
    return Weights(_shared(own, 1.0), _shared(context, _CONTEXT_WEIGHT))


def _shared(weights: Mapping[str, float], size: float) -> Mapping[str, float]:
    """The same proportions, adding up to ``size``."""
    sum_ = sum(weights.values())
    return {word: size * weight / sum_ for word, weight in weights.items()}


def _weighed(passage: Passage, rank: float, weights: Weights) -> Hit:
    own = list(weights.own)
    body = stems(passage.text)
    heading = frozenset(stems(passage.own_heading))
    everything = {*body, *stems(f"{passage.heading} {passage.title_words}")}
    pieces = list(units(passage.text))
    defining = any(unit.defines(own) for unit in pieces)
    asked = sum(word in weights.own or word in weights.context for word in heading)
    score = (
        rank
        + _COVERED * weights.covered_with_context(everything)
        + max((_piece(unit, heading, weights) for unit in pieces), default=0.0)
        + _COVERED_BY_HEADING * weights.covered_with_context(heading) * (1 + asked / max(len(heading), 1)) / 2
        + _DEFINING * defining
        + _LEAD_IN * (passage.heading in ("", passage.title))
    )
    covered = weights.covered(everything)
    if len(own) == 1:  # one word stands anywhere by chance
        answers = own[0] in everything and (defining or own[0] in heading or body.count(own[0]) > 1)
    else:
        answers = covered >= ENOUGH if own else bool(weights.context)
    return Hit(passage, pieces, score, covered, answers)


def _piece(unit: Unit, heading: frozenset[str], weights: Weights) -> float:
    """What one sentence, row or item says of all that is asked: a passage of many things answers none of them."""
    covered = weights.covered_with_context(heading.union(unit.stems))
    return _COVERED_BY_UNIT * covered + _NEAR * nearness(unit.content, list(weights.own))


def nearness(body: Sequence[str], asked: Sequence[str]) -> float:
    """The share of neighbours in the question that are neighbours in the text; those that are only near count half."""
    if len(asked) < 2:
        return 0.0
    places: dict[str, list[int]] = {word: [] for word in asked}
    for place, word in enumerate(body):
        if word in places:
            places[word].append(place)
    near = 0.0
    for left, right in pairwise(asked):
        distance = min((abs(one - other - 1) for one in places[right] for other in places[left]), default=_NEAR_WORDS)
        near += 1.0 if distance == 0 else 0.5 if distance < _NEAR_WORDS else 0.0
    return near / (len(asked) - 1)
