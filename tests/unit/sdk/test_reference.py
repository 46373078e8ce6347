"""docs/sdk.md has every public name of the SDK, and no other."""

import ast
import inspect
import re
from pathlib import Path
from typing import get_args

import pytest

import kdcube.sdk
from kdcube.sdk import testing

PAGE = (Path(__file__).parents[3] / "docs" / "sdk.md").read_text()
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))


def test_each_public_name_has_a_section():
    assert set(SECTIONS) == set(kdcube.sdk.__all__)


@pytest.mark.parametrize("name", kdcube.sdk.__all__)
def test_a_section_has_all_members(name):
    """Methods and fields of a class by what it says of itself; attributes that a constructor sets by its code."""
    named = getattr(kdcube.sdk, name)
    if not inspect.isclass(named):
        members = set(get_args(named))
    else:
        members = {member for member in (*vars(named), *getattr(named, "__annotations__", ())) if member[0] != "_"}
        members |= set(re.findall(r"^        self\.([a-z]\w*)", inspect.getsource(named), re.MULTILINE))
        if issubclass(named, Exception):
            members -= {"name"}
    missing = {member for member in members if not re.search(rf"\b{member}\b", SECTIONS[name])}
    assert not missing


def test_signatures_are_as_shown():
    for owner, prefix in ((kdcube.sdk.Turn, "turn"), (kdcube.sdk.Bundle, "bundle")):
        for name, shown in re.findall(rf"`(?:n = )?(?:await )?{prefix}\.(\w+)\(([^`]*)\)`", PAGE):
            taken = list(inspect.signature(getattr(owner, name)).parameters.values())[1:]
            arguments = ast.parse(f"def f({shown}): ...").body[0].args if '"name"' not in shown else None
            if arguments is not None:
                names = [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]
                assert names == [parameter.name for parameter in taken], name


def test_what_tests_use_exists():
    block = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "run_turn" in block)
    for name in re.findall(r"result\.(\w+)", block):
        assert hasattr(testing.TurnResult, name), name
    for name in re.findall(r"session\.(\w+)", block):
        assert hasattr(testing.Session, name), name
    for option in ("config", "secrets", "user", "payload", "history", "state", "attempt", "turn_id"):
        assert option in inspect.signature(testing.run).parameters
