"""Descriptors of the golden files."""

from __future__ import annotations

from pathlib import Path

from kdcube.deploy.descriptor.checks.rule import Target
from kdcube.deploy.descriptor.checks.verdict import judged
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.reading import Valid, read_descriptor
from kdcube.deploy.render.compose.facts import ComposeFacts

GOLDEN = Path(__file__).parents[3] / "golden" / "compose"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
FACTS = ComposeFacts(folder=Path("/srv/acme"), release="1.2.3", docker_group=998)


def described(name: str) -> Descriptor:
    read = read_descriptor((GOLDEN / f"{name}.yaml").read_text())
    assert isinstance(read, Valid), read
    assert not judged(read.descriptor, [Target.COMPOSE]).errors(Target.COMPOSE)
    return read.descriptor
