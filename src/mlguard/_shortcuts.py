"""Less work for FastAPI where a route's guards are all mlguard's.

FastAPI spends as much on finding and calling a dependency as most guards spend on deciding. At start-up, ``harden``
takes two short cuts. Where an endpoint takes nothing but what mlguard's guards return, and ``truncate_output`` makes
its answer, it is called directly. Elsewhere, one dependency takes the place of the guards that need nothing but the
connection, which are judged together anyway (see ``_order``). Both are as authoritative as what they replace: nobody
gets through whom the guards have not admitted. Guards of the app's own classes are left to FastAPI. Once there are
``dependency_overrides``, FastAPI does everything.
"""

import dataclasses
import inspect
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_parameterless_sub_dependant
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlguard import _fastapi
from mlguard._order import judge_all
from mlguard._plans import DirectCall, Known, Plan, direct_call, is_guard_alone, plan_of
from mlguard.outputs._endpoint import is_truncating


class Verdict:
    """What all guards of one route have said."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def __call__(self, conn: HTTPConnection) -> None:
        """Let the request through if every guard has admitted it.

        Raises:
            MLGuardError: The first refusal.
        """
        memory = await judge_all(conn)
        if memory.admitted and memory.plan is self._plan:
            return
        # Judged for another route, to which this request was handed on, or cut short: ask each guard itself.
        for call in self._plan.calls:
            await call(conn)


class DirectRoute:
    """A route's ASGI app that calls the endpoint without FastAPI's solver.

    Args:
        hardened: The app, whose overrides are watched.
        verdict: Of all guards that need no body.
        call: How to call the endpoint.
        fastapi_app: What FastAPI made of the route, for requests with which it has more to do.
    """

    def __init__(self, hardened: FastAPI, verdict: Verdict, call: DirectCall, fastapi_app: ASGIApp) -> None:
        self._hardened = hardened
        self._verdict = verdict
        self._call = call
        self._is_async = inspect.iscoroutinefunction(call.endpoint)
        self._fastapi_app = fastapi_app
        self._direct_app = request_response(self._respond)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more_to_do = self._hardened.dependency_overrides or _fastapi.is_traced(scope)
        await (self._fastapi_app if more_to_do else self._direct_app)(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        await self._verdict(request)
        arguments: dict[str, Any] = dict.fromkeys(self._call.requests, request)
        known: Known = {}
        for call, names in self._call.inputs:
            value = await call.value(request, known)
            for name in names:
                arguments[name] = value
        arguments[self._call.response] = _fastapi.injected_response()
        if self._is_async:
            answer: Response = await self._call.endpoint(**arguments)
        else:
            answer = await run_in_threadpool(self._call.endpoint, **arguments)
        return answer


class Shortcuts:
    """The short cuts through an app's routes.

    Args:
        app: The hardened app.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._taken = False
        self._replaced: list[tuple[Dependant, list[Dependant]]] = []

    def install(self) -> None:
        """Take them on all routes there are, once. Routes that are added later are left to FastAPI."""
        if self._taken or self._app.dependency_overrides:  # an app may be started again and again, by tests say
            return
        self._taken = True
        for route in _fastapi.own_routes(self._app):
            call = direct_call(route) if is_truncating(route.dependant.call) else None
            if call is not None:
                verdict = Verdict(plan_of(route.dependant))
                route.app = DirectRoute(self._app, verdict, call, route.app)
            else:
                self._replace_guards(route)

    def _replace_guards(self, route: Any) -> None:
        dependant: Dependant = route.dependant
        guards = [child for child in dependant.dependencies if is_guard_alone(child)]
        if not guards:
            return
        # The request handler holds this very object; everybody else goes on to see the guards.
        route.dependant = dataclasses.replace(dependant, dependencies=[*dependant.dependencies])
        verdict = Verdict(plan_of(route.dependant))
        node = get_parameterless_sub_dependant(depends=Depends(verdict), path=dependant.path or "")
        self._replaced.append((dependant, [*dependant.dependencies]))
        position = next(at for at, child in enumerate(dependant.dependencies) if child is guards[0])
        rest = [child for child in dependant.dependencies if not is_guard_alone(child)]
        dependant.dependencies[:] = [*rest[:position], node, *rest[position:]]

    def give_way(self) -> None:
        """Put the guards back once there are overrides: FastAPI alone knows what those mean for each of them."""
        if not self._app.dependency_overrides:
            return
        for dependant, dependencies in self._replaced:
            dependant.dependencies[:] = dependencies
        self._replaced.clear()
