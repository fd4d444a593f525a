"""Callers whose queries are not watched, such as sensors."""

from collections.abc import Collection
from typing import Any, TypeGuard

from mlguard._guard import Principal
from mlguard.errors import ConfigurationError


class Exempt:
    """Who they are.

    Args:
        callers: Names, ids of principals, or principals.
        scopes: Scopes, of which a principal who holds one is exempt.

    Raises:
        ConfigurationError: Something else.
    """

    def __init__(self, callers: object, scopes: object) -> None:
        if not _is_list(callers) or not all(isinstance(one, Principal) or _is_text(one) for one in callers):
            raise ConfigurationError("QueryMonitor(exempt=...) is a list of names, ids or Principals")
        if not _is_list(scopes) or not all(_is_text(scope) for scope in scopes):
            raise ConfigurationError("QueryMonitor(exempt_scopes=...) is a list of scopes")
        self._names = frozenset(one for one in callers if isinstance(one, str))
        self._principals = frozenset(one.identity for one in callers if isinstance(one, Principal))
        self._scopes = frozenset(scopes)

    def covers(self, caller: Any) -> bool:
        """Whether this caller is one of them."""
        if isinstance(caller, Principal):
            return (
                caller.id in self._names
                or caller.identity in self._principals
                or not self._scopes.isdisjoint(caller.scopes)
            )
        return caller is not None and str(caller) in self._names  # whom nobody has named is no client called None


def _is_list(value: object) -> TypeGuard[Collection[Any]]:
    return isinstance(value, Collection) and not isinstance(value, str)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
