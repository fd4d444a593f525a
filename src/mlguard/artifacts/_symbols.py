"""What stands for the objects of a pickle while it is read without running anything."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Name = tuple[str, str]  # module, and name in it


class MisuseError(Exception):
    """Something is done with a global that nobody who saves a model does. For the operator."""


@dataclass(eq=False, slots=True)
class Global:
    """A class or a function that the pickle names. It is not imported.

    Attributes:
        name: Its module, and its name there.
    """

    name: Name

    def __str__(self) -> str:
        return spell(self.name)


@dataclass(eq=False, slots=True)
class Made:
    """What a global would make of arguments.

    Attributes:
        name: The class that was named, or what it was called by. None: what was called is no global.
        args: What it would get.
        state: What BUILD would give it.
        built: Whether there was a BUILD.
    """

    name: Name | None
    args: tuple[Any, ...] = ()
    state: Any = None
    built: bool = False


@dataclass(eq=False, slots=True)
class Dtype(Made):
    """A dtype of NumPy.

    Attributes:
        code: Its kind and its size, as NumPy spells it: ``"f8"``.
        byte_order: ``"<"``, ``">"``, ``"="`` or ``"|"``.
        fields: Of a structured one: dtype and offset in bytes, by name.
        names: Of its fields, in their order.
    """

    code: str = ""
    byte_order: str = "|"
    fields: dict[str, tuple["Dtype", int]] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @property
    def holds_objects(self) -> bool:
        """Whether its values are references to Python objects."""
        return self.code[0] == "O"

    @property
    def integers(self) -> "np.dtype[np.signedinteger[Any]]":
        """NumPy's own, if its values are integers of 4 or 8 bytes.

        Raises:
            MisuseError: They are not.
        """
        if self.code not in ("i4", "i8") or self.byte_order == "|":
            raise MisuseError("something other than integers")
        return np.dtype(f"{self.byte_order}{self.code}")

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return int(self.code[1:]) * (4 if self.code[0] == "U" else 1)


@dataclass(eq=False, slots=True)
class Array(Made):
    """An array of NumPy.

    Attributes:
        dtype: Of its values. None until there was a BUILD.
        shape: Sizes of its axes.
        values: Its bytes, in the order of memory; the objects, for an array of objects.
    """

    dtype: Dtype | None = None
    shape: tuple[int, ...] = (0,)
    values: Any = b""


def spell_some(names: Sequence[Name]) -> str:
    """The first twenty, of as many as the file has."""
    return ", ".join(map(spell, names[:20])) + (", …" if len(names) > 20 else "")


def spell(name: Name) -> str:
    """A global as people write it, whatever the file has put into its name."""
    text = ".".join(part[:200] for part in name)
    return text if text.isascii() and text.isprintable() else ascii(text)
