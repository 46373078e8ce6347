"""The files of a build context for an image that has its bundles inside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kdcube.config.bundles import BundleEntry
from kdcube.deploy.image_release import ImageRelease

ROOT = "/bundles"
"""Where bundles are in the image."""
ENVIRONMENTS = "/opt/kdcube/environments"
"""And what they run in."""
_NOBODY = 65534
"""Builds them: code of packages may run."""
_ETC = "/etc/kdcube"
_PLAIN = re.compile(r"[!#%&'()*+,\-./0-9:;<=>?@A-Z\[\]^_a-z{|}~]+")
_COMMIT_DIGITS = 12
_NOT_BAKED = {"id", "git_token", "git_ssh_key", "git_poll_s", "webhook_secret"}
"""Of an entry: what is for fetching alone."""


@dataclass(frozen=True, slots=True)
class Baked:
    """One bundle in the context. ``content`` is the hash of what its files say, by which its turns name its version."""

    entry: BundleEntry
    content: str

    @property
    def commit(self) -> str:
        assert self.entry.git_ref is not None
        return self.entry.git_ref

    @property
    def place(self) -> str:
        """Below ``bundles``. With the commit in it, an image that has another one cannot serve it by mistake."""
        return f"{self.entry.id}/{self.commit[:_COMMIT_DIGITS]}"


def render_context(release: ImageRelease, bundles: list[Baked]) -> Mapping[str, str]:
    """The text of each file by its name; the bundles' own files are beside them, in ``bundles``."""
    return {
        "Dockerfile": _dockerfile(release, bundles),
        ".dockerignore": "*\n!bundles\n!bundles.json\n!release.json\n",
        "bundles.json": _registry(release, bundles),
        "release.json": _facts(release, bundles),
    }


def _dockerfile(release: ImageRelease, bundles: list[Baked]) -> str:
    labels = {
        "org.opencontainers.image.version": release.release,
        "org.opencontainers.image.base.name": release.platform.image.partition("@")[0],
        "org.opencontainers.image.base.digest": release.platform.image.partition("@")[2],
        **({"kdcube.ui": release.ui.pin} if release.ui else {}),
        "kdcube.bundles": " ".join(f"{bundle.entry.id}={bundle.commit}" for bundle in bundles),
    }
    pairs = [f"{name}={_quoted(value)}" for name, value in labels.items()]
    lines = [
        f"# Written by `kdcube bundles bake` for the release {release.release}: change release.yaml, and bake again.",
        f"FROM {release.platform.image} AS bundles",
        f"COPY bundles/ {ROOT}/",
        f"COPY bundles.json release.json {_ETC}/",
        f"ENV AGENTIC_BUNDLES_JSON={_ETC}/bundles.json \\\n    AGENTIC_BUNDLES_ROOT={ROOT}",
        "",
        "# What the bundles run in. The secret `packages` may say where packages come from, as UV_DEFAULT_INDEX=...",
        "FROM bundles AS environments",
        "USER 0",
        f"RUN install -d -o {_NOBODY} -g {_NOBODY} {ENVIRONMENTS}",
        f"USER {_NOBODY}:{_NOBODY}",
        "# hadolint ignore=SC1091",
        "RUN --mount=type=secret,id=packages,mode=0444 \\",
        "    set -a && if [ -f /run/secrets/packages ]; then . /run/secrets/packages; fi && \\",
        f"    python -m kdcube.proc.bundles.environments {ENVIRONMENTS}",
        "",
        "# Whom the image runs as is up to the platform's.",
        "FROM bundles",
        "LABEL " + " \\\n      ".join(pairs),
        f"COPY --from=environments {ENVIRONMENTS}/ {ENVIRONMENTS}/",
        f"ENV KDCUBE_BAKED_ENVIRONMENTS={ENVIRONMENTS}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A value in a Dockerfile. Raises ValueError for what could end it or be expanded: no pinned fact may hold any."""
    if not all(_PLAIN.fullmatch(word) for word in value.split(" ")):
        raise ValueError(f"not fit for a label: {value!r}")
    return f'"{value}"'


def _registry(release: ImageRelease, bundles: list[Baked]) -> str:
    """As AGENTIC_BUNDLES_JSON. Where the code came from stays in it for those who read it: with a path nothing is
    fetched, so that nothing signs in either.
    """
    entries = {
        bundle.entry.id: {
            **bundle.entry.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_BAKED),
            "path": f"{ROOT}/{bundle.place}",
        }
        for bundle in bundles
    }
    document = {"default_bundle_id": release.bundles.default_bundle_id, "bundles": entries}
    return _json({name: value for name, value in document.items() if value is not None})


def _facts(release: ImageRelease, bundles: list[Baked]) -> str:
    return _json(
        {
            "release": release.release,
            "platform": release.platform.image,
            "ui": release.ui.pin if release.ui else None,
            "bundles": [
                {
                    "id": bundle.entry.id,
                    "git_url": bundle.entry.git_url,
                    "commit": bundle.commit,
                    "git_subdir": bundle.entry.git_subdir,
                    "version": bundle.content,
                }
                for bundle in bundles
            ],
        }
    )


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
