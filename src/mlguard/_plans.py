"""Which guards a route has, and how to call them and its endpoint without FastAPI's solver.

A plan holds the guards that can be judged before the body is read, in the order in which they are. A direct call is
an endpoint all of whose arguments come from mlguard.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fastapi.routing
from fastapi.dependencies.models import Dependant
from fastapi.security import SecurityScopes
from starlette.types import Scope

from mlguard import _fastapi
from mlguard._guard import Control, Guard


@dataclass(frozen=True, slots=True)
class GuardCall:
    """One use of a guard in a dependency tree: how to call it without FastAPI's solver."""

    guard: Guard
    connection_name: str
    scopes_name: str | None
    scopes: SecurityScopes
    principals: tuple[tuple[str, "GuardCall"], ...]

    async def __call__(self, conn: Any, known: "Known | None" = None) -> Any:
        """Run the guard, after the guards that it depends on.

        Args:
            conn: The request or WebSocket.
            known: What guards have returned in this request already: each is run once.
        """
        values: dict[str, Any] = {self.connection_name: conn}
        for name, call in self.principals:
            values[name] = await (call(conn) if known is None else call.value(conn, known))
        if self.scopes_name is not None:
            values[self.scopes_name] = self.scopes
        return await self.guard(**values)  # type: ignore[operator]  # each guard's own signature

    async def value(self, conn: Any, known: "Known") -> Any:
        """What the guard has returned in this request, or returns now."""
        place = self.guard, frozenset(self.scopes.scopes)
        if place not in known:
            known[place] = await self(conn, known)
        return known[place]

    async def charge(self, conn: Any, costing: Any) -> None:
        """Have a guard of ours charge for what another guard has read."""
        values = {name: await call(conn) for name, call in self.principals}
        await self.guard(**{self.connection_name: conn, "costing": costing}, **values)  # type: ignore[operator]  # as above

    async def charge_refused(self, conn: Any) -> None:
        """Have the guard charge for an input that was refused."""
        values = {name: await call(conn) for name, call in self.principals}
        await self.guard.charge_refused(conn, **values)


#: What guards have returned, by guard and scopes.
Known = dict[tuple[Guard, frozenset[str]], Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """The guards of one route.

    Attributes:
        calls: Those that are judged before the body, in that order: where from, who is calling, then what counts.
        suspends: Whether one of them may wait for something.
        places: Those that take a place once the body has arrived.
        charges: Those that charge for what the body holds, without what reads it, in the order of their turns.
        turns: Those of them that are ours, so that one may be asked before FastAPI would.
    """

    calls: tuple[GuardCall, ...]
    suspends: bool
    places: tuple[GuardCall, ...]
    charges: tuple[GuardCall, ...]
    turns: tuple[GuardCall, ...]


# The dependant is kept beside its plan, so that its id cannot be given to another one.
_plans: dict[int, tuple[Dependant, Plan]] = {}
_MAX_PLANS = 4096  # routes of one process; more means that they are made on the fly


def plan_for(scope: Scope) -> Plan | None:
    """The guards of the matched route that can run before its body is read; None if there is no route with guards.

    Only trees made wholly of mlguard guards are taken, and none that ``dependency_overrides`` touches: FastAPI's own
    run of the dependencies stays authoritative, this one only comes earlier.
    """
    dependant = getattr(_fastapi.matched_route(scope), "dependant", None)
    if dependant is None:
        return None
    overrides: Mapping[Any, Any] = getattr(scope.get("app"), "dependency_overrides", {})
    return _make_plan(dependant, overrides) if overrides else plan_of(dependant)


def plan_of(dependant: Dependant) -> Plan:
    """The plan of one dependency tree, the same object each time."""
    known = _plans.get(id(dependant))
    if known is None:
        if len(_plans) >= _MAX_PLANS:
            _plans.clear()
        known = _plans[id(dependant)] = (dependant, _make_plan(dependant, {}))
    return known[1]


def _make_plan(dependant: Dependant, overrides: Mapping[Any, Any]) -> Plan:
    nodes = [*_nodes_below(dependant, overrides)]
    early = [call for _, tree in nodes if tree is not None for call in _calls_in(tree)]
    late = [node for node, tree in nodes if tree is None]
    authentication: dict[tuple[Guard, frozenset[str]], GuardCall] = {}
    for call in early:
        if call.guard.control is Control.AUTHENTICATION:
            authentication.setdefault((call.guard, frozenset(call.scopes.scopes)), call)
    # Who holds all scopes of one use holds some of them: the lesser use need not be judged.
    proofs = [
        call
        for (guard, scopes), call in authentication.items()
        if not (_is_ours(call) and any(guard is other and scopes < more for other, more in authentication))
    ]
    addresses = _one_each(call for call in early if call.guard.control is Control.ADDRESS)
    counting = _one_each(call for call in early if call.guard.control not in {Control.ADDRESS, Control.AUTHENTICATION})
    calls = (*addresses, *proofs, *_in_turn(counting))
    charges = _in_turn(_one_each(_charge_call(node, overrides) for node in late))
    return Plan(
        calls,
        suspends=any(_may_wait(call) for call in calls),
        places=_one_each(_place_call(node, overrides) for node in late),
        charges=charges,
        turns=tuple(call for call in charges if _is_ours(call)),
    )


def _nodes_below(dependant: Dependant, overrides: Mapping[Any, Any]) -> Iterator[tuple[Dependant, GuardCall | None]]:
    """The nodes of a tree from above, those that are a tree of body-less guards as one call."""
    for child in dependant.dependencies:
        if child.call not in overrides:
            call = _guard_call(child, overrides)
            yield child, call
            if call is None:
                yield from _nodes_below(child, overrides)


def _calls_in(call: GuardCall) -> Iterator[GuardCall]:
    for _, below in call.principals:
        yield from _calls_in(below)
    yield call


def _one_each(calls: Iterable[GuardCall | None]) -> tuple[GuardCall, ...]:
    """One call of each guard, the first."""
    by_guard: dict[Guard, GuardCall] = {}
    for call in calls:
        if call is not None:
            by_guard.setdefault(call.guard, call)
    return tuple(by_guard.values())


def _in_turn(calls: Iterable[GuardCall]) -> tuple[GuardCall, ...]:
    return tuple(sorted(calls, key=lambda call: call.guard.turn))  # of one turn, as they are listed


def _may_wait(call: GuardCall) -> bool:
    """Whether a call of the guard may wait. What a class of the app's own adds to one of ours is unknown."""
    return call.guard.suspends or not _is_ours(call)


def _is_ours(call: GuardCall) -> bool:
    """Whether nothing but classes of mlguard's own decide.

    One of the app's own may take scopes in its own way, or set a context variable for the endpoint, so FastAPI calls it
    as often and where it would.
    """
    ours = type(call.guard).__module__.startswith("mlguard.")
    return ours and all(_is_ours(principal) for _, principal in call.principals)


def is_guard_alone(dependant: Dependant) -> bool:
    """Whether a node is a tree of body-less guards of ours only, and nobody needs its value."""
    call = _guard_call(dependant, {}) if dependant.name is None else None
    return call is not None and _is_ours(call)


def _guard_call(dependant: Dependant, overrides: Mapping[Any, Any]) -> GuardCall | None:
    """How to call the guard at this node, or None where the node is not a tree of body-less guards only."""
    guard: Any = dependant.call
    if not isinstance(guard, Guard) or guard.reads_body or guard.takes_place:
        return None
    return _call_of(dependant, overrides, lambda child: _guard_call(child, overrides))


def _place_call(dependant: Dependant, overrides: Mapping[Any, Any]) -> GuardCall | None:
    """How to call the guard at this node that takes a place, or None where there is none, or only FastAPI can."""
    if not isinstance(dependant.call, Guard) or not dependant.call.takes_place:
        return None
    return _call_of(dependant, overrides, lambda child: _guard_call(child, overrides))


def _charge_call(dependant: Dependant, overrides: Mapping[Any, Any]) -> GuardCall | None:
    """How to have the guard at this node charge for a refused input, or None where it does not."""
    guard: Any = dependant.call
    reader: Any = guard.charges_by if isinstance(guard, Guard) else None
    if reader is None or reader in overrides:
        return None
    without_reader = dataclasses.replace(
        dependant, dependencies=[child for child in dependant.dependencies if child.call is not reader]
    )
    return _call_of(without_reader, overrides, lambda child: _guard_call(child, overrides))


def _call_of(
    dependant: Dependant, overrides: Mapping[Any, Any], call_below: Callable[[Dependant], GuardCall | None]
) -> GuardCall | None:
    """How to call the guard at this node, or None where only FastAPI can."""
    guard: Any = dependant.call
    name = dependant.http_connection_param_name or dependant.request_param_name
    if name is None or guard in overrides or not _fastapi.is_async(guard):
        return None
    if _reads_parameters(dependant) or _fastapi.takes_turns(dependant):
        return None
    below = []
    for child in dependant.dependencies:
        call = call_below(child)
        if call is None or child.name is None:
            return None
        below.append((child.name, call))
    scopes = SecurityScopes(_fastapi.scopes_of(dependant))
    return GuardCall(guard, name, dependant.security_scopes_param_name, scopes, tuple(below))


def _reads_parameters(dependant: Dependant) -> bool:
    """Whether a node takes more than the request and what other nodes return."""
    return dependant.response_param_name is not None or _needs_solver(dependant)


def _needs_solver(dependant: Dependant) -> bool:
    return bool(
        dependant.path_params
        or dependant.query_params
        or dependant.header_params
        or dependant.cookie_params
        or dependant.body_params
        or dependant.websocket_param_name
        or dependant.background_tasks_param_name
    )


# Endpoints that can be called without FastAPI's solver --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DirectCall:
    """How to call an endpoint that takes nothing but what mlguard's guards return, the request and the response.

    Attributes:
        endpoint: The function.
        inputs: The guards that are judged after the body or whose value the endpoint takes, in the order listed, and
            the names under which it takes it.
        requests: The names under which it takes the request.
        response: The name under which it takes the response whose headers and status it may set.
    """

    endpoint: Callable[..., Any]
    inputs: tuple[tuple[GuardCall, tuple[str, ...]], ...]
    requests: tuple[str, ...]
    response: str


def direct_call(route: Any) -> DirectCall | None:
    """How to call a route's endpoint directly, or None where FastAPI has something to do that only it knows."""
    dependant: Dependant = route.dependant
    original = getattr(route, "original_route", route)
    if (
        dependant.call is None
        or type(original).get_route_handler is not fastapi.routing.APIRoute.get_route_handler
        or getattr(route, "max_body_size", None) is not None
        or dependant.response_param_name is None
        or dependant.security_scopes_param_name is not None
        or _needs_solver(dependant)
        or _fastapi.is_instrumented()
        or _fastapi.is_wrapped(route)
    ):
        return None
    inputs: dict[tuple[Guard, frozenset[str]], tuple[GuardCall, list[str]]] = {}
    for child in dependant.dependencies:
        early = _guard_call(child, {})
        call = early or _late_call(child)
        if call is None or not _is_ours(call) or not child.use_cache:  # then each name has a value of its own
            return None
        if child.name is not None or early is None:
            names = inputs.setdefault((call.guard, frozenset(call.scopes.scopes)), (call, []))[1]
            names += [child.name] if child.name is not None else []
    requests = (dependant.request_param_name, dependant.http_connection_param_name)
    return DirectCall(
        dependant.call,
        tuple((call, tuple(names)) for call, names in inputs.values()),
        tuple(name for name in requests if name is not None),
        dependant.response_param_name,
    )


def _late_call(dependant: Dependant) -> GuardCall | None:
    """How to call a guard that reads the body, or needs what another one has read, or takes a place."""
    if not isinstance(dependant.call, Guard):
        return None
    return _call_of(dependant, {}, lambda child: _guard_call(child, {}) or _late_call(child))
