"""Where the scores are in an answer: ``"probabilities"``, ``"outputs.0.data"``, ``"predictions.*.scores"``."""

from collections.abc import Callable, Sequence
from typing import Any

from mlguard.errors import ConfigurationError, UnsafeOutputError
from mlguard.outputs._answer import ANSWER, json_key, plain, round_answer, round_fields
from mlguard.outputs.digits import Digits

#: Every item of a list.
EVERY = "*"


def steps_of(scores: str | Sequence[str]) -> tuple[str, ...]:
    """A path as its steps: a field's name, an item's position, or every item.

    Raises:
        ConfigurationError: It is no path.
    """
    steps = tuple(scores.split(".")) if isinstance(scores, str) else tuple(scores) if _is_steps(scores) else ()
    if not steps or not all(isinstance(step, str) and step for step in steps):
        raise ConfigurationError(
            'scores must be the name of the field that holds the scores, or a path to it, such as "outputs.0.data"; '
            'a name with a dot in it is written as a list: ["my.scores"]'
        )
    return steps


def _is_steps(scores: object) -> bool:
    return isinstance(scores, list | tuple)


def spell(steps: Sequence[str]) -> str:
    """A path for the developer to read."""
    return ".".join(steps)


class Walk:
    """One walk through an answer: it rounds everything beside the path, and hands over what is at its end.

    Args:
        steps: The path.
        digits: How many digits stay of every float that is not at the end of the path.
        release: What may leave of the scores, by their value and what they are called in an error.
        needed: Whether an answer that has no scores there may not leave.
    """

    __slots__ = ("_digits", "_found", "_needed", "_release", "_steps")

    def __init__(
        self, steps: tuple[str, ...], digits: Digits, release: Callable[[Any, str], Any], *, needed: bool
    ) -> None:
        self._steps = steps
        self._digits = digits
        self._release = release
        self._needed = needed
        self._found = False

    def through(self, answer: Any) -> Any:
        """What may leave of an answer.

        Raises:
            UnsafeOutputError: It has no scores, or not in every place where they should be, and they are needed (500).
        """
        return self._checked(answer, 0, ANSWER)

    def _checked(self, value: Any, at: int, where: str) -> Any:
        self._found = False
        released = self._next(value, at, where)
        if self._needed and not self._found:
            raise missing(self._steps)
        return released

    def _next(self, value: Any, at: int, where: str) -> Any:
        if at == len(self._steps):
            self._found = True
            return self._release(value, where)
        if type(value) is not dict:
            value = plain(value, self._digits)
        if isinstance(value, dict):
            return round_fields(value, self._digits, where, lambda name, item: self._field(name, item, at))
        step = self._steps[at]
        if isinstance(value, list | tuple) and step == EVERY:
            items = [self._checked(item, at + 1, f"item {place} of {where}") for place, item in enumerate(value)]
            self._found = True
            return items
        if isinstance(value, list | tuple) and step.isdecimal():
            return [
                self._next(item, at + 1, f"item {place} of {where}") if place == int(step) else self._round(item, where)
                for place, item in enumerate(value)
            ]
        return self._round(value, where)

    def _field(self, name: Any, value: Any, at: int) -> Any:
        if (name if type(name) is str else json_key(name)) == self._steps[at]:
            return self._next(value, at + 1, f"field {name!r}")
        return value if type(value) is str else self._round(value, f"field {name!r}")

    def _round(self, value: Any, where: str) -> Any:
        return round_answer(value, self._digits, where)


def lookup(value: Any, steps: tuple[str, ...], digits: Digits) -> Any:
    """What is at the end of a path that has no ``*`` in it.

    Raises:
        UnsafeOutputError: Nothing is (500).
    """
    for step in steps:
        value = plain(value, digits)
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list | tuple) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise missing(steps)
    return value


def missing(steps: Sequence[str]) -> UnsafeOutputError:
    """The answer has no scores, although the policy needs some."""
    return UnsafeOutputError(
        f"the answer has no field {spell(steps)!r}: name its scores in truncate_output(scores=...)"
    )
