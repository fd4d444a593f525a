"""Where two readings of a pickle are when something is called or gets a state.

The second reading believes what the first one has found. So at each such place both must hold as much as the other: as
many values on the stack, as many marks, as many that are remembered, and as many arguments. Else a rule would have
judged other arguments than those that are used.
"""

import pickle
from array import array
from collections.abc import Callable
from typing import Any, TypeAlias

Steps: TypeAlias = "array[int]"
#: What calls something, or gives it a state. INST and OBJ, which no Python 3 writes, are refused anyway.
STEPS = (pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.BUILD)


def new_steps() -> Steps:
    """None so far."""
    return array("q")


def step_of(reader: Any) -> int:
    """Where a reader is, before it does what such an instruction says."""
    stack = reader.stack
    top = stack[-1] if stack else None
    size = len(top) if type(top) in (tuple, dict) else -1  # type: ignore[arg-type]  # not of what stands for an object
    return hash((len(stack), len(reader.metastack), len(reader.memo), size))


def with_checks(dispatch: dict[int, Any], check: Callable[[Any], None]) -> dict[int, Any]:
    """The same instructions, where ``check`` is called with the reader before each of these."""

    def checked(load: Callable[[Any], None]) -> Callable[[Any], None]:
        def step(reader: Any) -> None:
            check(reader)
            load(reader)

        return step

    return dispatch | {code[0]: checked(dispatch[code[0]]) for code in STEPS}
