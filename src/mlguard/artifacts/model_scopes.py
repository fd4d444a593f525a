"""Who may do what with a store of models."""

from collections.abc import Mapping
from types import MappingProxyType

from mlguard._guard import Principal
from mlguard.artifacts.model_versions import checked_id
from mlguard.errors import InsufficientScopeError

#: The scope that a principal needs for each action.
MODEL_SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "save": "models:save",
        "load": "models:load",
        "list": "models:list",
        "promote": "models:promote",
        "rollback": "models:rollback",
    }
)

#: Who asks if nobody is named: whoever may write to the folder and has the key. Not None, which a dependency of
#: somebody's own may hand on for a caller that it does not know.
OWNER = Principal("", scopes=frozenset(MODEL_SCOPES.values()))


def require_scope(action: str, by: Principal) -> None:
    """See that a principal may do something.

    Raises:
        InsufficientScopeError: It lacks the scope, or is no principal (403).
        ConfigurationError: Its id is none that a record can hold.
    """
    scope = MODEL_SCOPES[action]
    if not isinstance(by, Principal):
        raise InsufficientScopeError(f"by= is no principal, and {scope!r} is needed")
    if not {scope}.issubset(by.scopes):
        raise InsufficientScopeError(f"{by.method} principal {by.id!r} lacks scope {scope!r}")
    checked_id(by.id)


def name_of(by: Principal) -> str | None:
    """Who it was, for a record. None: the owner of the key."""
    return None if by is OWNER else by.id
