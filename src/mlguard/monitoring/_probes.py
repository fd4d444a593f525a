"""Paths that are answered whatever happens, for the probes of whoever restarts the service."""

from collections.abc import Sequence

from starlette.types import Scope

from mlguard.errors import ConfigurationError

HEALTH = ("/health",)
_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # what is posted to such a path may be a question to a model


class Probes:
    """Those paths.

    Args:
        paths: Exactly as a probe asks for them.
        where: The setting, for errors.

    Raises:
        ConfigurationError: Something else than a list of paths.
    """

    def __init__(self, paths: Sequence[str], *, where: str) -> None:
        if isinstance(paths, str) or not all(isinstance(one, str) and one.startswith("/") for one in paths):
            raise ConfigurationError(f'{where} is a list of paths, such as ["/health"]')
        self._paths = frozenset(paths)

    def covers(self, scope: Scope) -> bool:
        """Whether a request is a probe. One that is spelt in another way is none, or that would have something done."""
        path: str = scope["path"]
        if path not in self._paths:
            root: str = scope.get("root_path", "").rstrip("/")
            if not root or not path.startswith(f"{root}/") or path[len(root) :] not in self._paths:
                return False
        return scope["type"] == "http" and scope["method"] in _METHODS
