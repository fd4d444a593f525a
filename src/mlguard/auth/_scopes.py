"""The form of scopes: the same wherever they are written, asked for or read (RFC 6749, section 3.3)."""

import re
from collections.abc import Collection

from mlguard.errors import ConfigurationError

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")


def checked_scopes(scopes: Collection[str], *, where: str) -> frozenset[str]:
    """A set of scopes. One with a space in it would be read as two.

    Raises:
        ConfigurationError: It is one text, or a scope is malformed.
    """
    if isinstance(scopes, str | bytes) or not isinstance(scopes, Collection):
        raise ConfigurationError(f"{where} are a set of names, such as {{'predict'}}, not one text")
    if not all(is_scope(scope) for scope in scopes):
        raise ConfigurationError(f"{where}: a scope is visible ASCII without spaces, quotes and backslashes")
    return frozenset(scopes)


def is_scope(scope: object) -> bool:
    """Whether it is a scope."""
    return isinstance(scope, str) and _SCOPE.fullmatch(scope) is not None
