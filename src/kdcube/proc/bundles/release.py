"""One release of a bundle, as proc runs it."""

from __future__ import annotations

from dataclasses import dataclass

from kdcube.config.bundles import BundleEntry

_NOT_OF_HOSTS = frozenset(
    {
        *("name", "description", "required_user_type", "singleton", "git_url", "git_ref", "git_poll_s"),
        *("webhook_secret", "git_token", "git_ssh_key", "config", "secrets", "max_attempts", "concurrency"),
        *("operation_timeout_s", "operation_concurrency"),
    }
)
"""Fields of an entry that hosts never see: they go with each turn, or are proc's own."""


@dataclass(frozen=True, slots=True)
class BundleRelease:
    """What the turns of a bundle are to run."""

    number: int
    entry: BundleEntry
    revision: str | None = None
    """The commit; None for a folder, which is as it is."""

    def fits_hosts_of(self, before: BundleRelease) -> bool:
        """Whether hosts that were started for ``before`` can run it, if their code is the same."""
        return _of_hosts(self.entry) == _of_hosts(before.entry)


def _of_hosts(entry: BundleEntry) -> dict[str, object]:
    return entry.model_dump(exclude=set(_NOT_OF_HOSTS))
