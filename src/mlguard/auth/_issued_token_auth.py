"""The guard for an issuer's own access tokens."""

from collections.abc import Mapping
from typing import Any

from fastapi.openapi.models import OAuth2, OAuthFlowPassword, OAuthFlows

from mlguard.auth.jwt import JWTAuth
from mlguard.auth.revocations import Revocations


class IssuedTokenAuth(JWTAuth):
    """Takes the access tokens of one :class:`~mlguard.TokenIssuer`. See :meth:`~mlguard.TokenIssuer.auth`.

    Args:
        key: As of :class:`~mlguard.JWTAuth`.
        revocations: What the issuer has revoked.
        token_url: Where name and password are taken for a token; None if OpenAPI shall not say.
        offered_scopes: The scopes that OpenAPI offers, each with a description.
        scheme_name: The name of the security scheme in OpenAPI.
        description: Its description in OpenAPI.
        **settings: More of :class:`~mlguard.JWTAuth`.
    """

    def __init__(
        self,
        key: Any,
        *,
        revocations: Revocations,
        token_url: str | None,
        offered_scopes: Mapping[str, str] | None,
        scheme_name: str | None,
        description: str | None,
        **settings: Any,
    ) -> None:
        if scheme_name is None and token_url is not None:
            scheme_name = "OAuth2PasswordBearer"  # as FastAPI's own
        super().__init__(key, revocations=revocations, scheme_name=scheme_name, description=description, **settings)
        if token_url is not None:
            offered = dict(offered_scopes or {})
            flow = OAuthFlowPassword(tokenUrl=token_url, refreshUrl=f"{token_url}/refresh", scopes=offered)
            self.model = OAuth2(flows=OAuthFlows(password=flow), description=description)
