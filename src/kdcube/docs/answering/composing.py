"""An answer without a language model: the best piece of the best passage, and what others add to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdcube.docs.searching.ranking import Found, Hit, Weights, nearness
from kdcube.docs.searching.units import Unit
from kdcube.docs.searching.words import stems

MAX_PASSAGES = 5
_MAX_OF_A_FILE = 3
_AS_GOOD = 0.6
"""A passage adds to the answer if it scores such a share of the best one."""
_LEAD_CHARS = 420
_POINT_CHARS = 260
_MAX_ROWS = 3
_COVERS = 0.7
"""A piece of another passage adds to the answer if it covers so much of the question under its own heading."""
_POINTING = ("it ", "this ", "that ", "these ", "they ", "those ", "then ", "but ", "so ")


@dataclass(frozen=True, slots=True)
class Point:
    """Text of one passage. ``text`` gets the number of its source behind it, and then comes ``code``."""

    hit: Hit
    text: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    lead: Sequence[Point]
    """Several when the lead is a list, one otherwise."""
    more: Sequence[Point]

    @property
    def hits(self) -> list[Hit]:
        return list({point.hit.passage.id: point.hit for point in (*self.lead, *self.more)}.values())


def worth_reading(found: Found, limit: int = MAX_PASSAGES) -> list[Hit]:
    """The passages that an answer is made of, best first."""
    chosen: list[Hit] = []
    for hit in found.hits:
        if chosen and (hit.score < _AS_GOOD * found.hits[0].score or not hit.answers):
            continue
        if sum(other.passage.path == hit.passage.path for other in chosen) < _MAX_OF_A_FILE:
            chosen.append(hit)
        if len(chosen) == limit:
            break
    return chosen


def compose(found: Found) -> Answer:
    """``found`` has at least one hit."""
    best, *others = worth_reading(found)
    lead = list(_lead(best, found.weights))
    said = {point.text for point in lead}
    more: list[Point] = []
    for hit in others:
        point = _point(hit, found.weights)
        if point is not None and point.text not in said:
            said.add(point.text)
            more.append(point)
    return Answer(lead, more)


def _lead(hit: Hit, weights: Weights) -> Iterator[Point]:
    units = hit.units
    best = _best_unit(units, weights)
    assert best is not None  # no passage is empty
    if best.kind in ("row", "item"):
        alike = [unit for unit in units if unit.block == best.block and unit is not best]
        close = [unit for unit in alike if _weight(unit, weights) >= 0.75 * _weight(best, weights)]
        for unit in [best, *close][:_MAX_ROWS]:
            yield Point(hit, unit.text, _code_after(unit, units) if not close else "")
        return
    if best.kind == "code":
        before = [unit for unit in units if unit.block == best.block - 1]
        text = before[-1].text if before else hit.passage.own_heading or hit.passage.title
        yield Point(hit, text if text.endswith((":", ".")) else f"{text}:", best.text)
        return
    yield Point(hit, _grown(best, units, _LEAD_CHARS), _code_after(best, units))


def _point(hit: Hit, weights: Weights) -> Point | None:
    best = _best_unit([unit for unit in hit.units if unit.kind != "code"], weights)
    if best is None or weights.covered_with_context({*best.stems, *stems(hit.passage.own_heading)}) < _COVERS:
        return None
    return Point(hit, _grown(best, hit.units, _POINT_CHARS) if best.kind == "sentence" else best.text)


def _best_unit(units: Sequence[Unit], weights: Weights) -> Unit | None:
    return max(units, key=lambda unit: (_weight(unit, weights), -unit.block), default=None)


def _weight(unit: Unit, weights: Weights) -> float:
    """How well the unit alone answers. Code says less than a sentence that covers as much."""
    own = list(weights.own)
    weight = weights.covered_with_context(unit.stems) + 0.6 * unit.defines(own) + 0.5 * nearness(unit.content, own)
    return weight * (0.8 if unit.kind == "code" else 1.0)


def _grown(unit: Unit, units: Sequence[Unit], limit_chars: int) -> str:
    """The sentence's paragraph; of a long one the sentence, the one before if it points back, and those that follow."""
    paragraph = [other for other in units if other.block == unit.block]
    whole = " ".join(other.text for other in paragraph)
    if len(whole) <= limit_chars:
        return whole
    first = last = paragraph.index(unit)
    if first and unit.text.lower().startswith(_POINTING):
        first -= 1
    text = " ".join(other.text for other in paragraph[first : last + 1])
    for other in paragraph[last + 1 :]:
        if len(text) + len(other.text) > limit_chars:
            break
        text += f" {other.text}"
    return text


def _code_after(unit: Unit, units: Sequence[Unit]) -> str:
    """The code block that the unit's block leads to."""
    after = [other for other in units if other.block == unit.block + 1]
    return after[0].text if after and after[0].kind == "code" else ""
