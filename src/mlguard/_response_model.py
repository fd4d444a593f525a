"""How a route's response model is applied, outside FastAPI's own request handler.

A decorator that returns a ready ``Response`` skips ``response_model``, and with it every field that the model keeps
back. So it must do what FastAPI would have done: validate and dump through the model of the matched route.
"""

from collections.abc import Callable
from typing import Any

from fastapi.exceptions import ResponseValidationError


def has_response_model(route: Any) -> bool:
    """Whether a route has a response model that can reject or keep back anything. ``-> Any`` alone is none."""
    if getattr(route, "response_field", None) is None:
        return False
    return route.response_model is not Any or bool(
        route.response_model_include is not None
        or route.response_model_exclude
        or not route.response_model_by_alias
        or route.response_model_exclude_unset
        or route.response_model_exclude_defaults
        or route.response_model_exclude_none
    )


def apply_response_model(route: Any, content: Any, *, before_dump: Callable[[Any], Any]) -> Any:
    """What the response model of a route lets out.

    Args:
        route: The route in effect, one that has a response model.
        content: What the endpoint returned, in plain Python.
        before_dump: Called with the validated value; what it returns is dumped.

    Returns:
        Plain data, after the include, exclude and alias settings of the route.

    Raises:
        ResponseValidationError: The content does not fit the model (500). It says where and why, without the content.
    """
    field = route.response_field
    value, errors = field.validate(content, {}, loc=("response",))
    if errors:
        # Messages and inputs may hold what the model predicts, and this text goes into a log.
        raise ResponseValidationError(errors=[{"type": e["type"], "loc": e["loc"]} for e in errors])
    return field.serialize(
        before_dump(value),
        include=route.response_model_include,
        exclude=route.response_model_exclude,
        by_alias=route.response_model_by_alias,
        exclude_unset=route.response_model_exclude_unset,
        exclude_defaults=route.response_model_exclude_defaults,
        exclude_none=route.response_model_exclude_none,
    )
