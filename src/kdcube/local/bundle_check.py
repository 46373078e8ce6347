"""``python -m kdcube.local.bundle_check FOLDER``: loads a bundle and prints what it is, or why it does not load.

What the bundle's code prints while it loads goes to standard error.
"""

from __future__ import annotations

import contextlib
import sys

import msgspec

from kdcube.sdk.loading import LoadError, load_bundle


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The bundle loads."""

    id: str
    max_attempts: int


class NotLoaded(msgspec.Struct, frozen=True, tag=True):
    """It does not, for this reason (one line)."""

    reason: str


def main() -> None:
    with contextlib.redirect_stdout(sys.stderr):
        try:
            bundle = load_bundle(sys.argv[1], None)
            found = Loaded(bundle.id, bundle.max_attempts)
        except LoadError as error:
            found = NotLoaded(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
