"""Amazon Cognito's tokens: ``token_use`` tells their kind, and access tokens name the client instead of an audience."""

from __future__ import annotations

from kdcube.config.openid import OpenIdSettings
from kdcube.gateway.identity.authenticator import Identity
from kdcube.gateway.identity.claims import name_of, roles_of, user_id_of
from kdcube.gateway.identity.openid import InvalidToken, Verified, check_id_token


class CognitoRules:
    """Groups of the user pool are the roles."""

    def __init__(self, settings: OpenIdSettings) -> None:
        self._settings = settings

    def of_access_token(self, verified: Verified) -> Identity:
        claims = verified.claims
        if claims.get("token_use") != "access":
            raise InvalidToken("it is of another kind")
        if claims.get("client_id") not in self._settings.client_ids:
            raise InvalidToken("it was made for another client")
        return Identity(
            user_id_of(claims), name_of(claims.get("username")), None, roles_of(claims, self._settings.roles_claims)
        )

    def of_id_token(self, verified: Verified) -> Identity:
        claims = verified.claims
        if claims.get("token_use") != "id":
            raise InvalidToken("it is of another kind")
        check_id_token(verified, self._settings.client_ids)
        email = None if claims.get("email_verified") in (False, "false") else claims.get("email")
        return Identity(
            user_id_of(claims),
            name_of(claims.get("cognito:username")),
            name_of(email),
            roles_of(claims, self._settings.roles_claims),
        )
