"""Where a browser signs out at the provider, each in its own way."""

from __future__ import annotations

from urllib.parse import urlencode

from kdcube.config.openid import Claims, OpenIdSettings
from kdcube.gateway.identity.openid import Metadata

_COGNITO_AUTHORIZE, _COGNITO_LOGOUT = "/oauth2/authorize", "/logout"


def sign_out_url(
    settings: OpenIdSettings, metadata: Metadata, *, client_id: str, back_to: str, id_token: str | None
) -> str | None:
    """From there the provider sends the browser on to ``back_to``. None when it offers no such place."""
    if settings.claims is Claims.COGNITO:
        return _cognito(metadata, {"client_id": client_id, "logout_uri": back_to})
    if metadata.end_session_endpoint is None:
        return None
    query = {"client_id": client_id, "post_logout_redirect_uri": back_to}
    return with_query(metadata.end_session_endpoint, query | ({"id_token_hint": id_token} if id_token else {}))


def _cognito(metadata: Metadata, query: dict[str, str]) -> str | None:
    """Its logout endpoint is beside the hosted pages, whether its documents name it or not, and takes no ID token."""
    authorize = metadata.authorization_endpoint or ""
    if metadata.end_session_endpoint is not None:
        return with_query(metadata.end_session_endpoint, query)
    if not authorize.endswith(_COGNITO_AUTHORIZE):
        return None
    return with_query(authorize.removesuffix(_COGNITO_AUTHORIZE) + _COGNITO_LOGOUT, query)


def with_query(url: str, query: dict[str, str]) -> str:
    """``url`` with further members in its query."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
