"""release.yaml: what an image with its bundles inside is made of. All of it is pinned, and nothing is a secret."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self, cast

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from kdcube.config.bundles import BundleEntry
from kdcube.config.git import GitAddress
from kdcube.telemetry.redaction import looks_secret

_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:-]{0,255}@sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FORBIDDING = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _pinned_image(image: str) -> str:
    if not _IMAGE.fullmatch(image):
        raise ValueError(
            "must be pinned by its digest, as NAME@sha256: and 64 digits; "
            "`docker buildx imagetools inspect NAME:TAG` prints it"
        )
    return image


def _pinned_commit(ref: str) -> str:
    if not _COMMIT.fullmatch(ref):
        raise ValueError("must be a full commit of 40 hexadecimal digits; `git ls-remote URL REF` prints it")
    return ref


PinnedImage = Annotated[str, AfterValidator(_pinned_image)]
PinnedCommit = Annotated[str, AfterValidator(_pinned_commit)]


class Platform(BaseModel):
    """The image of proc that the bundles go into."""

    model_config = _FORBIDDING

    image: PinnedImage


class Ui(BaseModel):
    """The browser application of the release, by image or by commit. It is recorded, and not built here."""

    model_config = _FORBIDDING

    image: PinnedImage | None = None
    git_url: str | None = Field(default=None, validation_alias=AliasChoices("git_url", "repo"))
    git_ref: PinnedCommit | None = Field(default=None, validation_alias=AliasChoices("git_ref", "ref"))

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.image is None) == (self.git_url is None) or (self.git_url is None) != (self.git_ref is None):
            raise ValueError("give an image, or a repo with its ref")
        if self.git_url is not None:
            GitAddress.parse(self.git_url)
        return self

    @property
    def pin(self) -> str:
        """In one word."""
        return self.image or f"{self.git_url}@{self.git_ref}"


class BakedBundles(BaseModel):
    """The bundles, each as in a registry, but from git at a full commit."""

    model_config = _FORBIDDING

    default_bundle_id: str | None = None
    items: tuple[BundleEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        ids = [entry.id for entry in self.items]
        for place, entry in enumerate(self.items):
            where = f"items.{place}"
            if entry.path is not None or entry.git_url is None:
                raise ValueError(
                    f"{where} must name git_url and git_ref, and no path: what is baked is pinned by commit"
                )
            try:
                _pinned_commit(entry.git_ref or "")
            except ValueError as error:
                raise ValueError(f"{where}.git_ref {error}") from None
            if ids.count(entry.id) > 1:
                raise ValueError(f"{where}.id is {entry.id!r}, as of another item; give each its own")
            if (found := looks_secret(entry.config)) is not None:
                raise ValueError(
                    f"{where}.config.{found} looks like a secret, and an image keeps none: grant it by reference under "
                    "`secrets`"
                )
        if self.default_bundle_id is not None and self.default_bundle_id not in ids:
            raise ValueError(f"default_bundle_id {self.default_bundle_id!r} is not among the items")
        return self


class ImageRelease(BaseModel):
    """The whole file. ``release_name`` and ``frontend`` are other spellings."""

    model_config = _FORBIDDING

    release: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")] = Field(
        validation_alias=AliasChoices("release", "release_name")
    )
    platform: Platform
    ui: Ui | None = Field(default=None, validation_alias=AliasChoices("ui", "frontend"))
    bundles: BakedBundles

    @model_validator(mode="before")
    @classmethod
    def _told(cls, given: Any) -> Any:
        """A platform that is pinned as in the files of the older system is told what it takes now."""
        if not isinstance(given, dict):
            return given
        platform: Any = cast("dict[str, Any]", given).get("platform")
        if isinstance(platform, dict) and "image" not in platform and ("repo" in platform or "ref" in platform):
            raise ValueError(
                "platform.image is missing: a tag or commit of the platform's repository says not which image; "
                "give NAME@sha256:…"
            )
        return cast("Any", given)
