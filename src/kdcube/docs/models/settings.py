"""Which model the bundle was granted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from kdcube.sdk import SecretNotGranted

PREFIX = "KDCUBE_LLM_"
_BASE_URLS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}


class ModelMisconfigured(Exception):
    """What was granted is no model; the message says what is wrong, and no value of a secret."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    provider: str
    """``openai`` (and whatever speaks like it) or ``anthropic``."""
    base_url: str
    """Up to and with its version, without a slash at the end."""
    model: str
    key: str | None = field(repr=False)


def granted_model(secret: Callable[[str], str]) -> ModelSettings | None:
    """By KDCUBE_LLM_PROVIDER (openai), _BASE_URL (the provider's own), _MODEL and _API_KEY; None when the last three
    are not granted. Raises ModelMisconfigured.
    """
    provider = (_granted(secret, "PROVIDER") or "openai").lower()
    base_url, model, key = (_granted(secret, name) for name in ("BASE_URL", "MODEL", "API_KEY"))
    if base_url is None and model is None and key is None:
        return None
    if provider not in _BASE_URLS:
        raise ModelMisconfigured(f"KDCUBE_LLM_PROVIDER is {provider!r}; give openai or anthropic")
    if model is None:
        raise ModelMisconfigured("KDCUBE_LLM_MODEL is not granted; name the model")
    if key is None and base_url is None:
        raise ModelMisconfigured(f"KDCUBE_LLM_API_KEY is not granted, which {provider} asks for")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ModelMisconfigured("KDCUBE_LLM_API_KEY holds characters that no key has")
    base_url = (base_url or _BASE_URLS[provider]).rstrip("/")
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ModelMisconfigured("KDCUBE_LLM_BASE_URL is no http or https URL")
    if provider == "anthropic" and not base_url.endswith("/v1"):
        base_url += "/v1"  # as Anthropic's own clients take it
    return ModelSettings(provider, base_url, model, key)


def _granted(secret: Callable[[str], str], name: str) -> str | None:
    try:
        return secret(PREFIX + name).strip() or None
    except SecretNotGranted:
        return None
