"""kdcube.yaml as a file."""

from __future__ import annotations

import sys
from pathlib import Path

from kdcube.config.documents import DOCUMENT_MAX_BYTES
from kdcube.deploy.descriptor.reading import Read, read_descriptor
from kdcube.protocol.errors import InvalidInput


def read_text(file: str) -> tuple[str, bool]:
    """The text, and whether it is JSON; - is standard input. Raises InvalidInput."""
    try:
        if file == "-":
            content = sys.stdin.buffer.read(DOCUMENT_MAX_BYTES + 1)
        else:
            with Path(file).expanduser().open("rb") as opened:
                content = opened.read(DOCUMENT_MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise InvalidInput("file", f"{file} does not exist; `kdcube descriptor init` writes a first one") from None
    except OSError as error:
        raise InvalidInput("file", f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput("file", f"cannot read {file}: it is not UTF-8") from None
    if len(content) > DOCUMENT_MAX_BYTES:
        raise InvalidInput("file", f"{file} is larger than {DOCUMENT_MAX_BYTES} bytes")
    return text, file.endswith(".json") or (file == "-" and text.lstrip().startswith("{"))


def read_file(file: Path, environment: str | None = None) -> Read:
    """A descriptor. Raises InvalidInput where there is no text to read."""
    text, is_json = read_text(str(file))
    return read_descriptor(text, environment, json=is_json)
