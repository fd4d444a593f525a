"""Routes that nobody could call, because two who read the body want two different ones: noticed at the start.

Only what is certain is told: guards of mlguard's own that take one form of body each, and models of pydantic that
demand a member which such a guard refuses.
"""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

from fastapi import params
from pydantic import BaseModel

from mlguard._fastapi import RouteInfo
from mlguard._guard import Guard
from mlguard.errors import ConfigurationError

_PLAIN_SCHEMA: Any = vars(BaseModel)["__get_pydantic_core_schema__"].__func__
_FIX = "A body is read by one guard; several inputs are fields of one pydantic model, such as FeatureMatrix and Text"


class BodyForm(NamedTuple):
    """The one form that a body must have. No body has two of them.

    Attributes:
        what: What is in it.
        members: Those of a JSON object, which has no others. Without any, it is no JSON.
    """

    what: str
    members: frozenset[str] = frozenset()


def check_bodies(routes: Iterable[RouteInfo], overrides: Mapping[Any, Any]) -> None:
    """See that there is a body that all who read it take.

    Args:
        routes: Of the app.
        overrides: What tests have put in the place of dependencies. If there are any, nothing is certain.

    Raises:
        ConfigurationError: There is none for a route.
    """
    for route in routes if not overrides else ():
        forms = {guard: form for guard in route.guards if (form := _form_of(guard)) is not None}
        for (one, form), (other, another) in combinations(forms.items(), 2):
            if form != another:
                raise ConfigurationError(
                    f"{route.path}: nobody can call it: {_told(one, form)}, and {_told(other, another)}. {_FIX}"
                )
        demanded = _demanded_of(route.body_fields)
        for guard, form in forms.items():
            if not demanded <= form.members:
                names = ", ".join(map(repr, sorted(demanded - form.members)))
                raise ConfigurationError(
                    f"{route.path}: nobody can call it: {_told(guard, form)}, and the endpoint or a dependency demands "
                    f"{names} of it. {_FIX}"
                )


def _form_of(guard: Guard) -> BodyForm | None:
    """A class of the app's own may read the body in a way of its own."""
    return guard.body_form if type(guard).__module__.startswith("mlguard.") else None


def _told(guard: Guard, form: BodyForm) -> str:
    alone = f" in {' and '.join(map(repr, sorted(form.members)))} alone" if form.members else ""
    return f"{type(guard).__name__} takes {form.what}{alone}"


def _demanded_of(fields: Iterable[Any]) -> frozenset[str]:
    """The members that FastAPI demands of a JSON body, as far as that is certain."""
    by_name = {field.name: field for field in fields}
    if any(type(field.field_info) is not params.Body for field in by_name.values()):  # a form
        return frozenset()
    if len(by_name) == 1:
        (field,) = by_name.values()
        if not field.field_info.embed:
            return _demanded_by(field.field_info)
    return frozenset(name for name, field in by_name.items() if _is_demanded(name, field.field_info))


def _demanded_by(info: Any) -> frozenset[str]:
    """What a model demands that is the whole body, if it says so itself and nothing changes the body before."""
    model = info.annotation
    if not info.is_required() or info.metadata or not isinstance(model, type) or not issubclass(model, BaseModel):
        return frozenset()
    if (
        model.__init__ is not BaseModel.__init__
        or getattr(model.__get_pydantic_core_schema__, "__func__", None) is not _PLAIN_SCHEMA
        or model.__pydantic_decorators__.model_validators
    ):
        return frozenset()
    return frozenset(name for name, field in model.model_fields.items() if _is_demanded(name, field))


def _is_demanded(name: str, info: Any) -> bool:
    return info.is_required() and {info.alias, info.validation_alias} <= {None, name}
