"""docs/configuration.md holds what the models and the reading of the environment say: nothing more, nothing less."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from kdcube.config.findings import words
from kdcube.config.gateway import GatewayConfig
from kdcube.config.profiles import PROFILES, Profile
from kdcube.config.reading import readers
from kdcube.config.resolution import IGNORED, PATTERN_LISTS, SECTIONS
from kdcube.config.schema import gateway_schema
from kdcube.config.secret_files import SECRET_NAMES
from kdcube.config.variables import READERS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
CONFIGURATION = gateway_schema()["$defs"]["configuration"]["properties"]
UNITS = {"_seconds": "seconds", "_days": "days", "_window": "seconds", "_bytes": "bytes", "_chars": "characters"}
ONLY_CHECKED = ("processes_per_instance", "pg_max_connections")
UNITS |= {"_threshold": "share", "_buffer": "share", "_multiplier": "turns", "_component": ""}


def tables(heading: str) -> list[list[str]]:
    """The rows of the tables below a heading, without their heads."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"there is no heading {heading}"
    rows = [line for line in section[1].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return [row for row in cells if not row[0].startswith(("field", "variable", "profile", "---"))]


def fields(properties: dict, path: tuple[str, ...] = ()):
    for name, field in properties.items():
        if field.get("deprecated") or "$ref" in field:
            continue
        if "properties" in field:
            if name != "roles":
                yield from fields(field["properties"], (*path, name))
        else:
            yield (*path, name), field


def default_of(profile: Profile, section: str, path: tuple[str, ...]) -> str:
    value = GatewayConfig(tenant="a", project="b", profile=profile).of("proc")[section]
    for name in path:
        value = value[name]
    return f"`{json.dumps(value)}`"


def expected_row(section: str, path: tuple[str, ...], field: dict) -> list[str]:
    unit = next((unit for suffix, unit in UNITS.items() if path[-1].endswith(suffix)), "number")
    default, in_production = (
        default_of(profile, section, path) for profile in (Profile.DEVELOPMENT, Profile.PRODUCTION)
    )
    return [
        f"`{'.'.join(path)}`",
        field["description"].replace("``", "`"),
        unit,
        words(field) or "",
        default if default == in_production else f"{default}; production {in_production}",
        field["x-applies"],
        ", ".join(readers(section, path[0])) or ("checks" if path[0] in ONLY_CHECKED else "nobody yet"),
    ]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_of_a_section_stands_there(section):
    expected = [expected_row(section, path, field) for path, field in fields(CONFIGURATION[section]["properties"])]
    shown = "\n".join(f"| {' | '.join(row)} |" for row in expected)
    assert tables(section) == expected, f"the table is to be:\n{shown}"


def test_the_patterns_and_the_scope_stand_there():
    described = {row[0]: row[1] for row in tables("The whole")}
    for name in ("tenant", "project", "profile", *PATTERN_LISTS):
        assert described.pop(f"`{name}`") == CONFIGURATION[name]["description"]
    assert described == {f"`{name}`": CONFIGURATION[name]["description"] for name in SECTIONS}


def test_the_profiles_stand_there():
    assert [row[0] for row in tables("Profiles")] == [f"`{profile}`" for profile in PROFILES]


def test_what_is_left_out_stands_there():
    text = " ".join(PAGE.split())
    for path in IGNORED:
        assert f"`{'.'.join(map(str, path))}`" in text, path


VARIABLE_TABLES = ("Services", "Stores", "Sign-in", "Bundles", "One machine", "The terminal")


def variables() -> dict[str, list[str]]:
    rows = [row for heading in VARIABLE_TABLES for row in tables(heading)]
    named = {row[0].strip("`"): row for row in rows}
    assert len(named) == len(rows), "a variable stands there twice"
    return named


def test_every_variable_stands_there_with_those_who_read_it():
    found = {name: row[1] for name, row in variables().items()}
    assert found == {name: ", ".join(readers) for name, readers in READERS.items()}


def test_the_variables_that_files_may_hold_are_named():
    paragraph = re.search(r"^Secrets can be in files.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert paragraph
    assert re.findall(r"`([A-Z_]{6,})`", paragraph[0]) == list(SECRET_NAMES)


def test_the_defaults_of_variables_are_those_of_the_code():
    named = variables()
    seen = 0
    for name, defaults in defaults_in_code().items():
        told = {part.strip().strip("`") for part in named[name][3].split(";")}
        for default in defaults:
            assert any(default == part.partition("`")[0].strip() for part in told), (name, default, told)
            seen += 1
    assert seen > 25


def defaults_in_code() -> dict[str, set[str]]:
    """By name, the defaults that are literals, as one would write them."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "src" / "kdcube").rglob("*.py"):
        tree = ast.parse(file.read_text())
        literals = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = call.func
            if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
                continue
            if function.value.id != "environment" or function.attr not in ("text", "integer", "seconds", "flag"):
                continue
            name, default = call.args[0], call.args[1]
            value = default.value if isinstance(default, ast.Constant) else literals.get(getattr(default, "id", ""))
            if isinstance(name, ast.Constant) and value not in (None, ""):
                found.setdefault(name.value, set()).add(written(value))
    return found


def written(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_readme_leads_here():
    assert "(docs/configuration.md)" in (ROOT / "README.md").read_text()


if __name__ == "__main__":
    for section in SECTIONS:
        print(f"### {section}\n\n{CONFIGURATION[section]['description']}\n")
        print("| field | meaning | unit | allowed | default | applies | read by |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for path, field in fields(CONFIGURATION[section]["properties"]):
            print(f"| {' | '.join(expected_row(section, path, field))} |")
        print()
