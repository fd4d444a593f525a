"""Paths that are answered whatever happens, for the probes of whoever restarts the service."""

from collections.abc import Sequence

from starlette.types import Scope

from mlguard.errors import ConfigurationError

HEALTH = ("/health",)


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
        """Whether a request is one for them. One that is spelt in another way is none."""
        path: str = scope["path"]
        if path not in self._paths:
            root: str = scope.get("root_path", "").rstrip("/")
            if not root or not path.startswith(f"{root}/") or path[len(root) :] not in self._paths:
                return False
        return bool(scope["type"] == "http")
