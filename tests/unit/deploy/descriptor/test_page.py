"""docs/descriptor.md holds every field of the model with its meaning and default: nothing more, nothing less.

``python -m tests.unit.deploy.descriptor.test_page`` writes the tables anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from kdcube.config.findings import words
from kdcube.deploy.descriptor.checks.verdict import RULES
from kdcube.deploy.descriptor.model import Descriptor
from kdcube.deploy.descriptor.schema import sections

ROOT = Path(__file__).parents[4]
FILE = ROOT / "docs" / "descriptor.md"
BEGIN, END = "<!-- fields -->\n", "<!-- end of fields -->\n"
DEFINITIONS = Descriptor.model_json_schema()["$defs"]


def tables() -> str:
    shown: list[str] = []
    for path, kind, node in sections():
        heading = ".".join(path) or "The whole"
        described = " ".join(node.get("description", "").split())
        shown.append(f"### {heading}{f': {kind}' if kind else ''}\n\n{_plain(described)}\n")
        rows = [row(name, field, node) for name, field in node["properties"].items() if field.get("const") is None]
        if rows:
            shown.append(
                "\n".join(("| field | meaning | allowed | default |", "| --- | --- | --- | --- |", *rows)) + "\n"
            )
    return "\n".join(shown)


def row(name: str, field: dict, node: dict) -> str:
    below = field.get("$ref", "").rpartition("/")[2]
    resolved = DEFINITIONS[below] if below else field
    meaning = field.get("description") or resolved.get("description", "")
    default = "required" if name in node.get("required", ()) else ""
    is_object = "properties" in resolved or "discriminator" in field
    if not default and "default" in field and not is_object and field["default"] not in (None, [], {}):
        default = f"`{json.dumps(field['default'])}`"
    allowed = "see below" if is_object and "discriminator" in field else words(resolved) or ""
    return f"| `{name}` | {_plain(' '.join(meaning.split()))} | {allowed} | {default} |".replace("  |", " |")


def _plain(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def test_every_field_stands_there():
    page = FILE.read_text()
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == tables().strip()


def test_every_check_stands_there():
    page = FILE.read_text()
    named = re.findall(r"^\| `([a-z_]+)` \| (compose|ECS|both) \| (refused|told) \|", page, re.MULTILINE)
    targets = {1: lambda rule: next(iter(rule.targets)).value.replace("ecs", "ECS"), 2: lambda _: "both"}
    assert named == [
        (rule.name, targets[len(rule.targets)](rule), "refused" if rule.refuses else "told") for rule in RULES
    ]


def test_the_readme_leads_here():
    assert "(docs/descriptor.md)" in (ROOT / "README.md").read_text()


if __name__ == "__main__":
    text = FILE.read_text()
    before, _, rest = text.partition(BEGIN)
    FILE.write_text(before + BEGIN + "\n" + tables() + "\n" + END + rest.partition(END)[2])
