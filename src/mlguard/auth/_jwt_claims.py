"""What the claims of a token say, once its signature holds: who, for whom, until when, and what they may do."""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mlguard._guard import Principal
from mlguard.auth._jwt_form import refuse
from mlguard.auth._token_memory import VerifiedToken
from mlguard.auth.revocations import revocation_keys
from mlguard.errors import ConfigurationError

_LAST_DATE = 253_402_300_799  # 9999-12-31T23:59:59Z; also refuses dates in milliseconds, which would never expire
_LONGEST_AGE = 365 * 86_400
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # scope-token, RFC 6749, section 3.3


class ClaimRules:
    """What the claims of a token must be, whatever time it is.

    Args:
        issuer: What ``iss`` must be.
        audience: What ``aud`` must name.
        roles: Scopes by role.
        roles_claim: Where the roles are.
        amr: What ``amr`` must hold.
        max_auth_age: Seconds since the login, at most.
        revocable: Whether tokens can be revoked, so that their ``jti`` matters.

    Raises:
        ConfigurationError: A setting that cannot work.
    """

    def __init__(
        self,
        *,
        issuer: str | None,
        audience: str | Collection[str] | None,
        roles: Mapping[str, Collection[str]] | None,
        roles_claim: str | tuple[str, ...],
        amr: Collection[str] | None,
        max_auth_age: float | None,
        revocable: bool,
    ) -> None:
        self.issuer = None if issuer is None else _checked_name("issuer", issuer)
        self._audience = None if audience is None else _checked_names("audience", audience)
        if isinstance(amr, str):
            raise ConfigurationError("amr must be a set of values, such as amr={'otp'}, not one text")
        self._amr = frozenset() if amr is None else _checked_names("amr", amr)
        if max_auth_age is not None and not (is_number(max_auth_age) and 0 < max_auth_age <= _LONGEST_AGE):
            raise ConfigurationError(f"max_auth_age must be a number of seconds above 0 and up to {_LONGEST_AGE}")
        self._revocable = revocable
        self._needs_login_time = max_auth_age is not None
        self._roles = None if roles is None else _checked_roles(roles)
        self._roles_path = _checked_path(roles_claim)
        if roles is None and self._roles_path != ("roles",):
            raise ConfigurationError("roles_claim has no effect without roles: say what each role may do")

    def judge(self, claims: dict[str, Any]) -> VerifiedToken:
        """What a token proves, apart from the time.

        Raises:
            RefusedError: A claim is missing, malformed or not for this service.
        """
        if "exp" not in claims:
            refuse("no exp")
        subject = _name(claims, "sub")
        issuer = _name(claims, "iss") if "iss" in claims else None
        if self.issuer is not None and issuer != self.issuer:
            refuse("another issuer, or none")
        self._check_audience(claims)
        issued_at = _date(claims, "iat") if "iat" in claims else None
        logged_in_at = _date(claims, "auth_time") if self._needs_login_time and "auth_time" in claims else None
        not_before = _date(claims, "nbf") if "nbf" in claims else 0
        return VerifiedToken(
            principal=Principal(subject, self._scopes(claims), "jwt", issuer, MappingProxyType(claims)),
            expires=_date(claims, "exp"),
            starts=max(not_before, issued_at or 0, logged_in_at or 0),
            issued_at=issued_at,
            logged_in_at=logged_in_at,
            has_factors=self._has_factors(claims),
            revocation_keys=self._revocation_keys(claims, subject, issuer) if self._revocable else (),
        )

    def _revocation_keys(self, claims: Mapping[str, Any], subject: str, issuer: str | None) -> tuple[bytes, ...]:
        jti = _name(claims, "jti") if "jti" in claims else None
        return revocation_keys(jti, subject=subject, issuer=issuer)

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        if self._audience is None:
            if "aud" in claims:
                refuse("meant for an audience, and none is configured")
            return
        audience = claims.get("aud")
        named = [audience] if isinstance(audience, str) else audience
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            refuse("aud is missing or malformed")
        if self._audience.isdisjoint(named):
            refuse("meant for another audience")

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        found = {_scope_names(name, claims[name]) for name in ("scope", "scp", "scopes") if name in claims}
        if len(found) > 1:
            refuse("the scope claims disagree")
        scopes = found.pop() if found else frozenset()
        if self._roles is None:
            return scopes
        return scopes.union(*(self._roles.get(role, frozenset()) for role in self._role_names(claims)))

    def _role_names(self, claims: Mapping[str, Any]) -> list[str]:
        """The roles, known and unknown. One text is one role: names of roles may have spaces in them."""
        value: Any = claims
        for name in self._roles_path:
            if not isinstance(value, Mapping):
                refuse("the claim of the roles is malformed")
            if name not in value:
                return []
            value = value[name]
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            refuse("the claim of the roles is malformed")
        return names

    def _has_factors(self, claims: Mapping[str, Any]) -> bool:
        """Whether ``amr`` holds what is demanded (RFC 8176)."""
        if not self._amr:
            return True
        used = claims.get("amr", [])
        if not isinstance(used, list) or not all(isinstance(one, str) for one in used):
            refuse("amr is malformed")
        return self._amr.issubset(used)


def is_number(value: object) -> bool:
    """Whether a value is an int or a float. True is an int, and no number."""
    return type(value) in {int, float}


def _date(claims: Mapping[str, Any], name: str) -> float:
    value: Any = claims[name]
    if not is_number(value) or not 0 <= value <= _LAST_DATE:
        refuse(f"{name} is not a date")
    return value  # type: ignore[no-any-return]  # an int or a float


def _name(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value or _SURROGATE.search(value):
        refuse(f"{name} is not a name")
    return value


def _scope_names(name: str, value: object) -> frozenset[str]:
    if isinstance(value, str):
        value = value.split(" ") if value else []
    elif name == "scope":
        value = None  # RFC 8693, section 4.2: a string
    if not isinstance(value, list) or not all(isinstance(one, str) and _SCOPE.fullmatch(one) for one in value):
        refuse(f"{name} is malformed")
    return frozenset(value)


# Settings -------------------------------------------------------------------------------------------------------------


def _checked_name(setting: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{setting} must be a string that is not empty; leave it out not to check it")
    return value


def _checked_names(setting: str, value: str | Collection[str]) -> frozenset[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Collection) or not names:
        raise ConfigurationError(f"{setting} must be a name or a list of names, such as {setting}=['…']")
    return frozenset(_checked_name(setting, name) for name in names)


def _checked_roles(roles: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    if not isinstance(roles, Mapping) or not roles:
        raise ConfigurationError("roles must say what each role may do, such as roles={'analyst': ['predict']}")
    checked = {}
    for number, (role, scopes) in enumerate(roles.items(), 1):
        if not isinstance(role, str) or not role:
            raise ConfigurationError(f"roles, entry {number}: a role is a string that is not empty")
        if isinstance(scopes, str) or not isinstance(scopes, Collection):
            raise ConfigurationError(f"roles, entry {number}: what a role may do is a list of scopes, not one text")
        if not all(isinstance(scope, str) and _SCOPE.fullmatch(scope) for scope in scopes):
            raise ConfigurationError(f"roles, entry {number}: a scope is visible ASCII without quotes and spaces")
        checked[role] = frozenset(scopes)
    return checked


def _checked_path(roles_claim: str | tuple[str, ...]) -> tuple[str, ...]:
    path = (roles_claim,) if isinstance(roles_claim, str) else roles_claim
    if not isinstance(path, tuple) or not path or not all(isinstance(name, str) and name for name in path):
        raise ConfigurationError(
            "roles_claim must be the name of a claim, or a tuple of names such as ('realm_access', 'roles')"
        )
    return path
