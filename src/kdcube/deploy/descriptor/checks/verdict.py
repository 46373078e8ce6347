"""What all checks say of a descriptor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdcube.config.documents import Finding
from kdcube.deploy.descriptor.checks import entering, keeping, naming, running
from kdcube.deploy.descriptor.checks.rule import BOTH, Rule, Target
from kdcube.deploy.descriptor.model import Descriptor

RULES: tuple[Rule, ...] = (*entering.RULES, *running.RULES, *keeping.RULES, *naming.RULES)


@dataclass(frozen=True, slots=True)
class Told:
    """A finding, the targets for which it holds, and the check that found it."""

    finding: Finding
    targets: frozenset[Target]
    refuses: bool
    rule: str

    def __str__(self) -> str:
        label = "" if self.targets == BOTH else f"[{', '.join(sorted(self.targets))}] "
        return f"{label}{self.finding}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of the targets that were asked for."""

    told: tuple[Told, ...]
    targets: frozenset[Target]

    def errors(self, target: Target) -> tuple[Finding, ...]:
        """Why it cannot be deployed there; none: it can."""
        return tuple(told.finding for told in self.told if told.refuses and target in told.targets)

    @property
    def fit(self) -> tuple[Target, ...]:
        """Where it can be deployed."""
        return tuple(target for target in Target if target in self.targets and not self.errors(target))


def judged(descriptor: Descriptor, targets: Iterable[Target] = BOTH) -> Verdict:
    """Every rule that holds for one of the targets."""
    asked = frozenset(targets)
    found = [
        Told(finding, rule.targets, rule.refuses, rule.name)
        for rule in RULES
        if rule.targets & asked
        for finding in rule.check(descriptor)
    ]
    return Verdict(tuple(found), asked)
