"""What may be done with a global that is allowed, while a pickle is loaded."""

import _compat_pickle
import sys
from typing import Any

import numpy as np

from mlguard.artifacts._symbols import Global, Made, MisuseError, Name

SCALAR: Name = ("numpy._core.multiarray", "scalar")
_LONGEST_VERSION = 64
_OBJECT = ("builtins", "object")
_NEWEST = {
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}


class Rule:
    """An estimator's: it is made without arguments, and gets a dict of attributes.

    Args:
        name: The global.

    Attributes:
        must_be_built: Whether one that never gets its state would crash who uses it.
    """

    must_be_built = False

    def __init__(self, name: Name) -> None:
        self.name = name

    def call(self, _args: tuple[Any, ...], /) -> Any:
        """REDUCE: call it. Returns what stands for the result."""
        raise MisuseError("it is called")

    def new(self, args: tuple[Any, ...], /) -> Any:
        """NEWOBJ: make an instance, past its ``__init__``."""
        if args:
            raise MisuseError("it is made with arguments")
        return Made(self.name)

    def build(self, _made: Made, state: Any, /) -> None:
        """BUILD: give it its attributes."""
        attributes(state)


class Value(Rule):
    """A class that is only named, as an argument or an attribute."""

    def new(self, _args: tuple[Any, ...], /) -> Any:
        """Never."""
        raise MisuseError("it is made")

    def build(self, _made: Made, _state: Any, /) -> None:
        """Never."""
        raise MisuseError("it gets a state")


class Reconstructor(Value):
    """``copyreg._reconstructor(cls, object, None)``, by which protocols 0 and 1 make an instance."""

    def __init__(self, name: Name, rules: dict[Name, Rule]) -> None:
        super().__init__(name)
        self._rules = rules

    def call(self, args: tuple[Any, ...], /) -> Any:
        """Make the instance."""
        if not (len(args) == 3 and isinstance(args[0], Global) and is_global(args[1], _OBJECT) and args[2] is None):
            raise MisuseError("it makes something other than a plain instance")
        rule = self._rules.get(args[0].name)
        return Made(args[0].name) if rule is None else rule.new(())


def attributes(state: Any) -> dict[str, Any]:
    """The state, if it is a dict of attributes that an object may have in its file.

    Raises:
        MisuseError: It is something else: a pair could set attributes on a class.
    """
    if type(state) is not dict:
        raise MisuseError("its state is no dict")
    for name in state:
        if type(name) is not str or name.startswith("__"):
            raise MisuseError("an attribute is named like one of Python's own")
    version = state.get("_sklearn_version", "")  # which scikit-learn puts into a warning, whatever it is
    if type(version) is not str or len(version) > _LONGEST_VERSION or not version.isprintable():
        raise MisuseError("a version that is none")
    return state


def is_global(value: Any, name: Name) -> bool:
    """Whether it is this global."""
    return isinstance(value, Global) and value.name == name


def is_count(value: Any, *, least: int = 0) -> bool:
    """Whether it is an integer, large enough, and no larger than memory can be. ``True`` is none."""
    return type(value) is int and least <= value <= sys.maxsize


def whole_number(value: Any) -> int:
    """A whole number of Python's or of NumPy's.

    Raises:
        MisuseError: It is none, or below 0.
    """
    if isinstance(value, Made) and value.name == SCALAR and value.args:
        value = int(np.frombuffer(value.args[1], value.args[0].integers)[0])
    if not is_count(value):
        raise MisuseError("something other than a whole number")
    return int(value)


def modern_name(module: str, name: str, protocol: int) -> Name:
    """A global by the name that it has today, and in Python 3, as :mod:`pickle` itself would find it."""
    if protocol < 3:
        if (module, name) in _compat_pickle.NAME_MAPPING:
            module, name = _compat_pickle.NAME_MAPPING[module, name]
        elif module in _compat_pickle.IMPORT_MAPPING:
            module = _compat_pickle.IMPORT_MAPPING[module]
    return _NEWEST.get(module, module), name
