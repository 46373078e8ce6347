"""``kdcube bundles new``."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from kdcube.protocol.errors import InvalidInput, KDCubeError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_CHARS = 63
_PLACE = "NAME"
"""What a template says where the bundle's name belongs."""


class CannotWrite(KDCubeError):
    """The folder of a new bundle cannot be made."""


def new(name: str, /) -> None:
    """Make the folder of a new bundle: its code, a test, and a few lines about it.

    Parameters
    ----------
    name
        The name of the bundle and of its folder: lower-case letters, digits and hyphens.
    """
    if len(name) > _MAX_CHARS or not _NAME.fullmatch(name):
        raise InvalidInput(
            "name",
            f"{name!r} cannot be the name of a bundle: give 1 to {_MAX_CHARS} lower-case letters, digits and single "
            "hyphens, beginning with a letter, such as my-agent",
        )
    folder = Path(name)
    write_bundle(folder, name)
    print(f"made {folder}/: bundle.py, its test, and a README\n\n  kdcube up --bundle {folder} --watch")


def write_bundle(folder: Path, name: str) -> None:
    """Raises InvalidInput when the folder is there, and CannotWrite."""
    try:
        folder.mkdir()
        for template in _templates():
            (folder / template.stem).write_text(template.read_text().replace(_PLACE, name))
    except FileExistsError as error:
        raise InvalidInput("name", f"{folder.absolute()} is there already, and nothing of it was changed") from error
    except OSError as error:
        raise CannotWrite(f"{folder.absolute()} cannot be made: {error.strerror}") from error


def _templates() -> list[Path]:
    return sorted(Path(str(resources.files("kdcube.cli") / "scaffold")).glob("*.txt"))
