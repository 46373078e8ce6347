"""What the registry entry of the bundle may say in its ``config``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from kdcube.sdk import BundleError

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3_600)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is beyond them is left out, with a line in the log."""

    files: Count = 50_000
    depth: Count = 32
    """Folders within folders."""
    file_bytes: Count = 30_000_000
    file_chars: Count = 5_000_000
    """Of the text of one file."""
    file_s: Seconds = 30.0
    """For reading one file. Whatever takes longer is given up, with its process."""
    memory_bytes: Count = 4_000_000_000
    """Of the process that reads."""


class ModelTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a language model may take."""

    connect_s: Seconds = 5.0
    silence_s: Seconds = 30.0
    """Between two pieces of its answer, and before the first one."""
    answer_s: Seconds = 180.0
    """All in all, repeats included."""
    repeat_s: Seconds = 0.5
    """Before it is asked a second time; twice that before the third. Each a little longer, by chance."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    folder: str
    """Absolute."""
    include: tuple[str, ...] = ()
    """Files and folders in it, relative; without any the whole folder counts."""
    name: str = ""
    """What answers call the documents."""
    cache: str = msgspec.field(default_factory=tempfile.gettempdir)
    """Where the index is kept. Hosts that share it build the index once; the default is a host's own, and goes with it.
    """
    base_uri: str = ""
    """Put before the path of a file to make the ``uri`` of a citation, such as ``https://docs.example.org/``."""
    limits: Limits = Limits()
    model_times: ModelTimes = ModelTimes()


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Raises BundleError."""
    try:
        return msgspec.convert(config, Settings)
    except msgspec.ValidationError as error:
        print(f"docs: the config of the registry entry is wrong: {error}", flush=True)
        raise BundleError(
            "docs_misconfigured", f"The documents are not set up: config of the bundle: {error}"
        ) from None
