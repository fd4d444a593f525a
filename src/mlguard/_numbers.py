"""Settings that are numbers. ``True`` is none, although Python counts with it."""

from typing import TypeGuard

from mlguard.errors import ConfigurationError


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is an integer or a float."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(where: str, value: object, *, least: int, most: int | None = None) -> int:
    """A whole number in its bounds.

    Args:
        where: What the setting is called, such as ``"Text(max_length=...)"``.
        value: What was given.
        least: The smallest that is allowed.
        most: The largest. None: any.

    Raises:
        ConfigurationError: It is none, or out of bounds.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= least and (most is None or value <= most):
        return value
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigurationError(f"{where} is a whole number {bounds}")


def seconds(where: str, value: object, *, least: float | None = None, most: float) -> float:
    """A number of seconds in its bounds.

    Args:
        where: As for :func:`whole`.
        value: What was given.
        least: The smallest that is allowed. None: any above 0.
        most: The largest.

    Raises:
        ConfigurationError: It is none, or out of bounds.
    """
    if is_number(value) and value <= most and (value > 0 if least is None else value >= least):  # none is true of NaN
        return float(value)
    bounds = f"above 0, at most {most:,.12g}" if least is None else f"from {least:,.12g} to {most:,.12g}"
    raise ConfigurationError(f"{where} is a number of seconds {bounds}")
