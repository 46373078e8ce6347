import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdcube.sdk.loading import LoadError, load_bundle

GOOD = """
from kdcube.sdk import Bundle
bundle = Bundle("good@1")
@bundle.on_message
async def answer(turn): ...
"""


@pytest.fixture(autouse=True)
def restored_imports(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / (name.replace("__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_folder_with_bundle_py_and_a_module_beside_it(tmp_path):
    write(tmp_path, bundle="import beside\n" + GOOD, beside="")
    assert load_bundle(str(tmp_path), None).id == "good@1"


def test_package(tmp_path):
    folder = write(
        tmp_path / "agent", bundle="from .beside import x\nfrom agent.beside import x\n" + GOOD, beside="x=1"
    )
    (folder / "__init__.py").write_text("")
    assert load_bundle(str(folder), None).id == "good@1"


def test_package_whose_name_is_taken(tmp_path):
    folder = write(tmp_path / "json", beside="")
    (folder / "__init__.py").write_text("from . import beside\n" + GOOD)
    assert load_bundle(str(folder), None).id == "good@1"


def test_one_file(tmp_path):
    file = tmp_path / "my-agent.py"
    file.write_text(GOOD)
    assert load_bundle(str(file), None).id == "good@1"


def test_module_and_attribute(tmp_path):
    write(tmp_path, support__entrypoint=GOOD.replace("bundle =", "served =").replace("@bundle", "@served"))
    assert load_bundle(str(tmp_path), "support.entrypoint:served").id == "good@1"


def test_the_registrys_id_is_the_codes_own(tmp_path):
    write(tmp_path, bundle=GOOD)
    assert load_bundle(str(tmp_path), None, "good@1").id == "good@1"
    with pytest.raises(LoadError, match=r"bundle\.py: the code says Bundle\('good@1'\), the registry .*'good@2'; give"):
        load_bundle(str(tmp_path), None, "good@2")


def test_module_name_that_is_no_identifier(tmp_path):
    folder = write(tmp_path / "ops@1-3", entrypoint=GOOD)
    assert load_bundle(str(folder.parent), "ops@1-3.entrypoint").id == "good@1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\ndef f(:\n", r"SyntaxError: .* \(.*bundle\.py, line 2\)"),
        (
            "\n\nimport no_such_module\n",
            r"NotFoundError: No module named 'no_such_module' \(.*bundle\.py, line 3\)",
        ),
        ("def f():\n    return {}['key']\nf()\n", r"KeyError: 'key' \(.*bundle\.py, line 2\)"),
        ("import json\njson.loads('no')\n", r"JSONDecodeError: .* \(.*bundle\.py, line 2\)"),
        ("raise SystemExit\n", r"SystemExit \(.*bundle\.py, line 1\)"),
        ("raise ValueError('two\\nlines')\n", r"ValueError: two lines \("),
        ("x = 1\n", r"bundle\.py defines no `bundle`: write"),
        ("bundle = 1\n", r"`bundle` is a int, it must be"),
        ("from kdcube.sdk import Bundle\nbundle = Bundle('a@1')\n", "registers nothing"),
        ("from kdcube.sdk import Bundle\nbundle = Bundle('a b')\n", r"ValueError: .* \(.*bundle\.py, line 2\)"),
    ],
)
def test_what_does_not_load_says_why_and_where_in_one_line(tmp_path, text, says):
    write(tmp_path, bundle=text)
    with pytest.raises(LoadError, match=says) as error:
        load_bundle(str(tmp_path), None)
    assert "\n" not in str(error.value)


def test_error_in_a_module_beside_names_that_file(tmp_path):
    write(tmp_path, bundle="import beside\n" + GOOD, beside="\n1/0\n")
    with pytest.raises(LoadError, match=r"ZeroDivisionError: .*beside\.py, line 2\)"):
        load_bundle(str(tmp_path), None)


def test_absent_folder_and_empty_folder(tmp_path):
    with pytest.raises(LoadError, match="does not exist"):
        load_bundle(str(tmp_path / "absent"), None)
    with pytest.raises(LoadError, match=r"neither bundle\.py nor __init__\.py"):
        load_bundle(str(tmp_path), None)
