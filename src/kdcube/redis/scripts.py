"""Lua scripts: one ``lua/<name>.lua`` each, run by EVALSHA.

A line ``-- include: <shared>`` in a script is replaced by ``lua/_<shared>.lua``, so that functions which several
scripts need exist once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from kdcube.redis.connection import Connection, ServerError
from kdcube.redis.wire import Argument

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


class Script:
    """A script by name. Nothing is read before its first use. ``folder`` is for tests."""

    def __init__(self, name: str, *, folder: Traversable | None = None) -> None:
        self.name = name
        self._folder = folder

    @cached_property
    def text(self) -> str:
        """What the server runs. Raises FileNotFoundError when the script or a shared file is not there."""
        folder = self._folder or resources.files("kdcube.redis") / "lua"

        def read(name: str) -> str:
            text = (folder / f"{name}.lua").read_text(encoding="utf-8")
            return _INCLUDE.sub(lambda match: read(f"_{match[1]}").rstrip("\n"), text)

        return read(self.name)

    @cached_property
    def sha(self) -> str:
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, connection: Connection, keys: Sequence[str | bytes], args: Sequence[Argument] = ()) -> Any:
        """The script's reply: lists, bytes, int or None, as it returned it. Raises what ``connection.call`` raises.

        A server that lost its scripts is sent the text again; calls that were sent after this one then run before it.
        """
        try:
            return await connection.call("EVALSHA", self.sha, len(keys), *keys, *args)
        except ServerError as error:
            if error.code != "NOSCRIPT":
                raise
            return await connection.call("EVAL", self.text, len(keys), *keys, *args)
