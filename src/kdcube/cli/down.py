"""``kdcube down``."""

from __future__ import annotations

from kdcube.cli.settings import local_settings
from kdcube.local.down import bring_down
from kdcube.local.home import Home


def down() -> None:
    """Drain and stop everything that `kdcube up` has started."""
    home = Home(local_settings().home)
    print(f"stopped {home.path}" if bring_down(home, print) else f"nothing runs in {home.path}")
