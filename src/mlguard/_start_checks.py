"""What ``harden`` finds wrong with an app's routes when it starts: each stops the start, and says what to do."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mlguard import _fastapi
from mlguard.artifacts.served_model import ServedModel
from mlguard.errors import ConfigurationError
from mlguard.outputs._endpoint import NOT_BY_FASTAPI, decorator_above, is_stream
from mlguard.traffic._counting import CountingGuard


def check_decorators(routes: Sequence[_fastapi.RouteInfo]) -> None:
    """Our decorators, where they have no effect.

    Raises:
        ConfigurationError: There is one above a route's own, or on events that FastAPI sends itself.
    """
    for route in routes:
        decorator = decorator_above(route.endpoint)
        if decorator is not None:
            raise ConfigurationError(
                f"{route.path}: @{decorator} stands above the route's own decorator, where it has no effect; "
                "put it below, next to the function"
            )
        if is_stream(route.endpoint) and route.streams_itself:
            raise ConfigurationError(f"{route.path}: {NOT_BY_FASTAPI}")


def check_models(routes: Sequence[_fastapi.RouteInfo], overrides: Mapping[Any, Any]) -> None:
    """Models that routes take: once the app's lifespan has begun, they are loaded, or never will be.

    Raises:
        ConfigurationError: One is not.
    """
    for route in routes:
        for model in route.dependencies:
            if isinstance(model, ServedModel) and model.version is None and model not in overrides:
                raise ConfigurationError(
                    f"{route.path}: its model was not loaded: pass FastAPI(lifespan=....lifespan), or write "
                    "'async with ....lifespan(app):' in the lifespan of the outermost app"
                )


def check_buckets(limits: Sequence[CountingGuard]) -> None:
    """Limits that would share a bucket without anybody having said so.

    Raises:
        ConfigurationError: There are some.
    """
    by_name: defaultdict[tuple[str, str, int], list[Any]] = defaultdict(list)
    for limit in limits:
        by_name[type(limit).__name__, limit.name, id(limit.store)].append(limit)
    for (kind, name, _), same in by_name.items():
        if len(same) > 1 and not all(limit.named and limit.quota == same[0].quota for limit in same):
            raise ConfigurationError(
                f"{len(same)} {kind}s are called {name!r} and would share one bucket; use one object for both "
                "endpoints, or give each its own name=..."
            )
