"""slowapi's limits by who is calling, instead of by address."""

from collections.abc import Callable

from starlette.requests import Request

from mlguard._guard import Control, Guard, principal_of
from mlguard.errors import ConfigurationError
from mlguard.store import store_key


def principal_key(caller: Guard, *, otherwise: Callable[[Request], str] | None = None) -> Callable[[Request], str]:
    """A ``key_func`` for slowapi that names the principal whom a guard has proved.

    One caller shares one count from all addresses, and two callers behind one address have their own::

        limiter = Limiter(key_func=principal_key(caller))

        @app.post("/predict", dependencies=[Depends(caller)])
        @limiter.limit("60/minute")
        def predict(request: Request): ...

    The guard must be used on the route. slowapi's decorator counts when the endpoint is called, after the guard. Its
    middleware counts before any guard has judged, so there ``otherwise`` is what names the caller.

    Args:
        caller: The guard, such as ``APIKeyAuth``.
        otherwise: Names callers where the guard has not judged the request, such as slowapi's ``get_remote_address``.
            Default: none. Such a request is then refused with an error that says so, and counts for nobody.

    Returns:
        A function of the request. The keys that it makes are digests: stores and logs get no names.

    Raises:
        ConfigurationError: At construction: ``caller`` does not say who is calling. When called: it has not judged the
            request, and there is no ``otherwise``.
    """
    if not isinstance(caller, Guard) or caller.control is not Control.AUTHENTICATION:
        raise ConfigurationError("principal_key takes a guard that says who is calling, such as APIKeyAuth")

    def key_func(request: Request) -> str:  # slowapi passes the request only to a parameter of this name
        try:
            principal = principal_of(request, caller)
        except ConfigurationError:
            if otherwise is None:
                raise
            return store_key("slowapi", "otherwise", str(otherwise(request))).hex()
        return store_key("slowapi", "principal", *principal.identity).hex()

    return key_func
