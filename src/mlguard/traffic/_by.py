"""Whose count it is, and how much one request adds to it: what ``by=`` and ``cost=`` take."""

import inspect
import operator
from collections.abc import Awaitable, Callable, Mapping, Sized
from contextlib import suppress
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

from fastapi import Depends
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal, RequestMemory, principal_of
from mlguard.errors import ConfigurationError
from mlguard.traffic.addresses import ClientAddress, client_address

T = TypeVar("T")

MAX_UNITS = 2**53 - 1  # what every store counts exactly

# Functions whose call returns no value yet: FastAPI knows how to get it out of them.
_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class By:
    """Whose count it is.

    Args:
        by: A guard that returns a :class:`Principal`, a function of the connection that returns a name, or any FastAPI
            dependency that returns a name or a principal. None is the client address.
        where: The guard that takes it, for errors.

    Attributes:
        direct: The function of the connection, where nothing else is needed.
        label: A name for it that is the same in every process.

    Raises:
        ConfigurationError: It cannot name a caller.
    """

    def __init__(self, by: Callable[..., Any] | Guard | None, *, where: str) -> None:
        self.direct: Callable[[HTTPConnection], Any] | None = None
        self.label = _describe(by)
        self._by = by
        self._where = where
        if by is None:
            self.direct = client_address
        elif isinstance(by, Guard):
            if by.control is not Control.AUTHENTICATION:
                raise ConfigurationError(f"{where}(by=...): {type(by).__name__} does not say who is calling")
        elif isinstance(by, type) and issubclass(by, Guard):
            raise ConfigurationError(f"{where}(by={by.__name__}) is the class: give it the guard that you made of it")
        elif not callable(by):
            raise ConfigurationError(f"{where}(by=...) must be a guard such as APIKeyAuth, a function, or left out")
        elif takes_a_connection(by):
            self.direct = by

    def parameters(self) -> list[inspect.Parameter]:
        """What FastAPI is to fill in under ``who``, if anything."""
        return [] if self.direct is not None else [_parameter("who", self._by)]

    def caller(self, conn: HTTPConnection, who: Any) -> Any:
        """Who is calling."""
        return who if self.direct is None else self.direct(conn)

    def known(self, conn: HTTPConnection, guard: Guard) -> Any:
        """Who has sent a request that ``guard`` has judged already, or the guard in ``by``.

        Raises:
            ConfigurationError: Neither has.
        """
        if self.direct is not None:
            return self.direct(conn)
        memory = RequestMemory.of(conn.scope)
        if guard in memory.decisions:
            return memory.recall(guard)
        if isinstance(self._by, Guard):
            return principal_of(conn, self._by)
        raise ConfigurationError(f"{guard!r} has not judged this request; use it on the route, as Depends(...)")

    def identity(self, caller: Any) -> tuple[str, ...]:
        """The parts that together name one caller.

        Raises:
            ConfigurationError: What ``by`` has returned names nobody.
        """
        if isinstance(caller, Principal):
            return ("principal", *caller.identity)
        if caller is None or isinstance(caller, (str, int)):
            return ("name", "" if caller is None else str(caller))
        raise ConfigurationError(
            f"{self._where}(by=...) returned a {type(caller).__name__}; return a Principal, a str or an int to "
            "name the caller"
        )


class Cost:
    """How many units one request is.

    Args:
        cost: A number, a function of the connection, or any FastAPI dependency, such as ``Features``: an array or a
            list costs its length. What another guard has read costs what that says.
        where: The guard that takes it, for errors.

    Attributes:
        reader: The guard that reads the body, where that is what says how much it is.
        is_late: Whether FastAPI has to find it out, which it does after it has read the body.

    Raises:
        ConfigurationError: It is no whole number of at least 1, and nothing that can be called.
    """

    def __init__(self, cost: Callable[..., Any] | Guard | int, *, where: str) -> None:
        self._fixed = self._direct = None
        self._cost = cost
        self._where = where
        self.reader = cost if isinstance(cost, Guard) and cost.reads_body else None
        if isinstance(cost, int) and not isinstance(cost, bool):
            if not 1 <= cost <= MAX_UNITS:
                raise ConfigurationError(f"{where}(cost=...) is a whole number of at least 1")
            self._fixed = cost
        elif not callable(cost) or isinstance(cost, type):
            raise ConfigurationError(f"{where}(cost=...) is a whole number, a function, or a guard such as Features")
        elif takes_a_connection(cost):
            self._direct = cost
        self.is_late = self._fixed is None and self._direct is None

    def parameters(self) -> list[inspect.Parameter]:
        """What FastAPI is to fill in under ``costing``, if anything."""
        return [_parameter("costing", self._cost)] if self.is_late else []

    def units(self, conn: HTTPConnection, costing: Any) -> int:
        """How many units this request is.

        Raises:
            ConfigurationError: What ``cost`` has returned is no number of units.
        """
        if self._fixed is not None:
            return self._fixed
        value = costing if self._direct is None else self._direct(conn)
        if self.reader is not None:
            value = self.reader.units(value)
        if isinstance(value, Sized) and not isinstance(value, str | bytes | Mapping):
            with suppress(TypeError):  # an array without a dimension is a number
                value = len(value)
        return checked_units(value, where=f"{self._where}(cost=...) has returned")


def checked_units(value: Any, *, where: str) -> int:
    """A number of units.

    Raises:
        ConfigurationError: It is no whole number of at least 0, or more than a store can count.
    """
    try:
        units = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        units = -1
    if not 0 <= units <= MAX_UNITS:
        raise ConfigurationError(
            f"{where} a {type(value).__name__} that is no whole number of units, from 0 to 2**53 - 1"
        )
    return units


def describe(caller: Any) -> str:
    """Who, for the log. Only a principal: a function may name callers by something that is not the log's business."""
    return f" by {caller.method} principal {caller.id!r}" if isinstance(caller, Principal) else ""


class OfCaller(Generic[T]):
    """A dependency that returns something about who is calling.

    Args:
        by: Who that is.
        ask: What is asked, of a caller.
    """

    def __init__(self, by: By, ask: Callable[[Any], Awaitable[T]]) -> None:
        self._by = by
        self._ask = ask
        self.__signature__ = signature(by)

    async def __call__(self, conn: HTTPConnection, who: Any = None) -> T:
        """What is asked, of who is calling."""
        return await self._ask(self._by.caller(conn, who))


def signature(*parts: By | Cost) -> inspect.Signature:
    """The signature that FastAPI sees: the connection, and what ``by`` and ``cost`` need."""
    parameters = [inspect.Parameter("conn", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)]
    for part in parts:
        parameters += part.parameters()
    return inspect.Signature(parameters)


def takes_a_connection(function: Callable[..., Any]) -> bool:
    """Whether a plain function needs the connection and nothing else, so that FastAPI need not resolve it."""
    if isinstance(function, ClientAddress):
        return True
    if not inspect.isfunction(function) or function.__code__.co_flags & _NOT_PLAIN:
        return False
    parameters = list(inspect.signature(function).parameters)
    try:
        hints = get_type_hints(function)
    except Exception:  # an annotation that cannot be resolved: FastAPI will say so
        return False
    hint = hints.get(parameters[0], HTTPConnection) if len(parameters) == 1 else None
    return isinstance(hint, type) and issubclass(hint, HTTPConnection)


def _parameter(name: str, dependency: Any) -> inspect.Parameter:
    annotation = Annotated[Any, Depends(dependency)]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)


def _describe(by: Callable[..., Any] | Guard | None) -> str:
    if by is None:
        return "address"
    if isinstance(by, Guard):
        return by.label
    if isinstance(by, ClientAddress):
        return repr(by)
    return f"{getattr(by, '__module__', '')}.{getattr(by, '__qualname__', type(by).__qualname__)}"
