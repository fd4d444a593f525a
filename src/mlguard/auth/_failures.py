"""A brake on guessing: failed credentials count, others do not."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import HTTPConnection

from mlguard.errors import ConfigurationError, NotAuthenticatedError
from mlguard.traffic.rate import RateLimit

T = TypeVar("T")


def checked_failures(failures: RateLimit | None, *, where: str) -> RateLimit | None:
    """The limit on failures, if it can be one.

    Raises:
        ConfigurationError: It is no ``RateLimit``, or it asks another dependency whose bucket it is: who has failed to
            authenticate has no principal. Or an outage of its store would open it.
    """
    if failures is None:
        return None
    if not isinstance(failures, RateLimit) or not failures.needs_only_connection:
        raise ConfigurationError(
            f"{where}(failures=...) takes a RateLimit by address, such as RateLimit('10/minute', name='failures'), "
            "or by a plain function of the connection"
        )
    if failures.on_store_error == "allow":
        raise ConfigurationError(
            f"{where}(failures=...): with on_store_error='allow', secrets could be guessed without a limit while the "
            "store is away; use 'local' or 'refuse'"
        )
    return failures


async def with_failures(
    conn: HTTPConnection, failures: RateLimit | None, authenticate: Callable[[], Awaitable[T]]
) -> T:
    """Authenticate, unless this address has failed too often; a failure counts.

    Attempts that are under way at the same time have all been let in by the same count. A guard that waits (for a
    password hash, say) bounds how many those are, and asks again when their turn has come.

    Raises:
        RateLimitedError: Too many failures (429). Nothing was looked at.
        NotAuthenticatedError: The credential does not hold (401).
    """
    if failures is None:
        return await authenticate()
    await failures.ensure_room(conn)
    try:
        return await authenticate()
    except NotAuthenticatedError:
        await failures.charge(conn)
        raise
