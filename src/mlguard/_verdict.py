"""One dependency for all guards of a route, so that FastAPI asks once.

FastAPI spends as much on finding and calling a dependency as most guards spend on deciding. The guards of a route that
need nothing but the connection are judged together anyway (see ``_order``), so ``harden`` puts one dependency in their
place. It is as authoritative as they are: it lets nobody through whom they have not admitted.
"""

import dataclasses
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_parameterless_sub_dependant
from starlette.requests import HTTPConnection

from mlguard import _fastapi
from mlguard._fastapi import Plan
from mlguard._guard import RequestMemory
from mlguard._order import judge


class Verdict:
    """What all guards of one route have said."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def __call__(self, conn: HTTPConnection) -> None:
        """Let the request through if every guard has admitted it.

        Raises:
            MLGuardError: The first refusal.
        """
        memory = RequestMemory.of(conn.scope)
        if not memory.admitted:
            await judge(conn, memory)
        if memory.admitted and memory.plan is self._plan:
            return
        # Judged for another route, to which this request was handed on, or cut short: ask each guard itself.
        for call in self._plan.calls:
            await call(conn)


class Verdicts:
    """The verdicts of an app's routes, in the place of their guards until somebody overrides a dependency.

    Args:
        app: The hardened app.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._replaced: list[tuple[Dependant, list[Dependant]]] = []

    def install(self) -> None:
        """Replace the guards of all routes there are. Routes that are added later keep theirs."""
        if not self._app.dependency_overrides:
            for route in _fastapi.own_routes(self._app):
                self._replace(route)

    def _replace(self, route: Any) -> None:
        dependant: Dependant = route.dependant
        guards = [child for child in dependant.dependencies if _fastapi.is_guard_alone(child)]
        if not guards:
            return
        # The request handler holds this very object; everybody else goes on to see the guards.
        route.dependant = dataclasses.replace(dependant, dependencies=[*dependant.dependencies])
        verdict = Verdict(_fastapi.plan_of(route.dependant))
        node = get_parameterless_sub_dependant(depends=Depends(verdict), path=dependant.path or "")
        self._replaced.append((dependant, [*dependant.dependencies]))
        position = next(at for at, child in enumerate(dependant.dependencies) if child is guards[0])
        rest = [child for child in dependant.dependencies if not _fastapi.is_guard_alone(child)]
        dependant.dependencies[:] = [*rest[:position], node, *rest[position:]]

    def give_way(self) -> None:
        """Put the guards back once there are overrides: FastAPI alone knows what those mean for each of them."""
        if not self._app.dependency_overrides:
            return
        for dependant, dependencies in self._replaced:
            dependant.dependencies[:] = dependencies
        self._replaced.clear()
