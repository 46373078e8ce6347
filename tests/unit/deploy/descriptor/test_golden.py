"""Six descriptors: they load, they fit what they are for, and what they come to is told as it is reviewed here.

``python -m tests.unit.deploy.descriptor.test_golden`` writes the texts anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcube.deploy.descriptor.checks.rule import Target
from kdcube.deploy.descriptor.checks.verdict import judged
from kdcube.deploy.descriptor.explaining import explained
from kdcube.deploy.descriptor.reading import Valid, environments_of, read_descriptor

GOLDEN = Path(__file__).parents[3] / "golden" / "descriptor"
FIT = {
    "smallest": {Target.COMPOSE},
    "full": {Target.ECS},
    "ec2-proc": {Target.ECS},
    "brownfield": {Target.ECS},
    "proxy-edge": {Target.COMPOSE, Target.ECS},
    "baked-bundles": {Target.ECS},
}


def told(name: str, environment: str | None = None) -> str:
    read = read_descriptor((GOLDEN / f"{name}.yaml").read_text(), environment)
    assert isinstance(read, Valid), str(read)
    chapters = explained(read.descriptor, read.document, "0.0.0")
    return "\n".join("\n".join((chapter.heading, *(f"  {line}" for line in chapter.lines), "")) for chapter in chapters)


@pytest.mark.parametrize("name", FIT)
def test_it_is_told_as_it_was_reviewed(name):
    assert told(name) == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", FIT)
def test_it_fits_what_it_is_for(name):
    read = read_descriptor((GOLDEN / f"{name}.yaml").read_text())
    assert isinstance(read, Valid) and read.warnings == ()
    assert set(judged(read.descriptor).fit) == FIT[name]


def test_all_are_here():
    assert {file.stem for file in GOLDEN.glob("*.yaml")} == set(FIT) == {file.stem for file in GOLDEN.glob("*.txt")}


def test_environments_of_the_full_one():
    text = (GOLDEN / "full.yaml").read_text()
    fit = {}
    for name in environments_of(text):
        read = read_descriptor(text, name)
        assert isinstance(read, Valid), str(read)
        fit[name] = set(judged(read.descriptor).fit)
    assert fit == {"staging": {Target.ECS}, "laptop": {Target.COMPOSE}}


if __name__ == "__main__":
    for name in FIT:
        (GOLDEN / f"{name}.txt").write_text(told(name))
