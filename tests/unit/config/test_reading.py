"""What the product reads of its configuration is what is said to be read."""

from __future__ import annotations

import re
from pathlib import Path

from kdcube.config.gateway import Valid, check_gateway_document
from kdcube.config.reading import read_sections, readers
from kdcube.config.resolution import PATTERN_LISTS, SECTIONS
from kdcube.config.sections import COMPONENTS

SOURCES = Path(__file__).parents[3] / "src" / "kdcube"
SCOPE = {"tenant": "a", "project": "b"}


def code() -> str:
    """All but what reads the configuration itself, and what only checks it or plans by it."""
    files = [file for file in SOURCES.rglob("*.py") if SOURCES / "deploy" / "descriptor" not in file.parents]
    return "\n".join(file.read_text() for file in files if file.parent.name not in ("config", "capacity"))


def test_each_section_is_read_by_whom_it_says():
    """A section that another component reads as well belongs into config/reading.py."""
    sections = "|".join((*SECTIONS, *PATTERN_LISTS))
    found = set(re.findall(rf"\.({sections})\.(ingress|proc)\b", code()))
    found |= set(re.findall(rf"\.({sections})\.(ingress|proc)\b", (SOURCES / "config" / "proc.py").read_text()))
    by_either = re.findall(rf"\.({sections})\.of\(", code())
    found |= {(section, component) for section in by_either for component in COMPONENTS}
    assert found == read_sections()


def test_fields_that_nobody_reads_are_not_read():
    text = code() + (SOURCES / "config" / "proc.py").read_text()
    for name, section in SECTIONS.items():
        for field in section.model_fields:
            if not readers(name, field):
                assert f".{field}" not in text, f"{name}.{field} is read: say by whom in config/reading.py"


def test_the_same_for_both_has_an_effect():
    same = {"ingress": {"capacity_buffer": 0.3}, "proc": {"capacity_buffer": 0.3}}
    for backpressure in (same, {"capacity_buffer": 0.3}):
        checked = check_gateway_document({**SCOPE, "backpressure": backpressure})
        assert isinstance(checked, Valid) and not checked.warnings
