"""Values as bytes: equal questions are one, and no two that differ are."""

import enum
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypedDict, TypeVar
from uuid import UUID

import numpy as np
import pytest
from fastapi import BackgroundTasks, Depends, Request, Response, UploadFile, WebSocket
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import BaseModel, EmailStr, PrivateAttr
from starlette.requests import HTTPConnection

from mlguard import Principal
from mlguard.outputs._canonical import NotCanonicalError, canonical, canonical_rows, framed, is_foreign


class Colour(enum.Enum):
    RED = 1
    ROSE = 2


class Flags(enum.Flag):
    A = 1
    B = 2
    C = 4


class Row(BaseModel):
    features: list[float]
    note: str | None = None


class Other(BaseModel):
    features: list[float]
    note: str | None = None


class Counted(BaseModel):
    _count: int = PrivateAttr(0)


@dataclass
class Point:
    x: float
    y: float


class Typed(TypedDict):
    x: float


NAN2 = struct.unpack(">d", b"\x7f\xf8\x00\x00\x00\x00\x00\x01")[0]


def normal(value: Any) -> Any:
    """What a value is, in other words than those of the code: a tree that Python compares."""
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else (value + 0.0).hex())
    if isinstance(value, list | tuple):
        return ("list", *map(normal, value))
    if isinstance(value, dict):
        return ("dict", frozenset((normal(key), normal(item)) for key, item in value.items()))
    return (type(value).__name__, value)


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, -0.0, 1.0, math.nan, NAN2, math.inf])
    | st.text("ab:1", max_size=3)
    | st.binary(max_size=2)
)
values = st.recursive(
    leaves,
    lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(st.text("ab", max_size=2), deeper, max_size=3),
    max_leaves=6,
)


@given(values, values)
def test_equal_bytes_mean_equal_values(one: Any, other: Any) -> None:
    """And the other way round: nothing is mistaken for anything, nothing is told from itself."""
    assert (canonical(one) == canonical(other)) == (normal(one) == normal(other))
    assert canonical([one, other]) == canonical((one, other))


@given(st.lists(st.text("ab:1", max_size=3), max_size=4), st.lists(st.text("ab:1", max_size=3), max_size=4))
def test_framed_texts_are_told_apart(one: list[str], other: list[str]) -> None:
    """``("a", "bc")`` is not ``("ab", "c")``, whatever the texts hold."""
    assert (framed(*one) == framed(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.0, -0.0),
        ([0.0, 1.0], [-0.0, 1.0]),
        (math.nan, NAN2),
        ([1.0, math.nan], [1.0, NAN2]),
        (np.array([0.0, math.nan]), np.array([-0.0, NAN2])),
        (np.array([[1.0, 2.0]]), np.array([[1.0, 2.0]], ">f8")),
        (np.array([[1.0, 2.0], [3.0, 4.0]]), np.asfortranarray([[1.0, 2.0], [3.0, 4.0]])),
        (np.arange(6.0)[::2], np.array([0.0, 2.0, 4.0])),
        (np.array([1, 2]), np.array([1, 2], ">i8")),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a", "b", "c"}, {"c", "b", "a"}),
        (Row(features=[0.0]), Row(features=[-0.0])),
        (Point(0.0, 1.0), Point(-0.0, 1.0)),
        (complex(0.0, 1.0), complex(-0.0, 1.0)),
        (np.float64(0.0), np.float64(-0.0)),
        (np.float32(math.nan), -np.float32(math.nan)),
        (Principal("a", claims={"x": 1}), Principal("a", claims=MappingProxyType({"x": 1}))),
    ],
)
def test_one_question(one: Any, other: Any) -> None:
    """Different spellings of one value are one."""
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (None, False),
        ("1", 1),
        ("a", b"a"),
        (["a", "bc"], ["ab", "c"]),
        ([["a"], "b"], [["a", "b"]]),
        ([], [[]]),
        ({}, []),
        ({"a": "b"}, ["a", "b"]),
        ({"1": 0}, {1: 0}),
        ("\ud800", "?"),
        (np.array([1.0, 2.0]), np.array([[1.0, 2.0]])),
        (np.array([1.0]), np.array([1.0], "f4")),
        (np.array([1.0]), [1.0]),
        (np.float64(1.0), np.array([1.0])),
        (np.array([], "f8").reshape(0, 2), np.array([], "f8").reshape(2, 0)),
        (np.array(["a"]), np.array([b"a"])),
        (np.array(["2020-01-01"], "M8[D]"), np.array(["2020-01-01"], "M8[s]")),
        (Row(features=[1.0]), Other(features=[1.0])),
        (Row(features=[1.0]), Row(features=[1.0], note=None)),
        (Point(1.0, 2.0), {"x": 1.0, "y": 2.0}),
        (Colour.RED, Colour.ROSE),
        (Flags.A | Flags.B, Flags.A | Flags.C),
        (date(2026, 1, 1), "2026-01-01"),
        (datetime(2026, 1, 1), date(2026, 1, 1)),
        (Decimal(1), 1),
        (UUID(int=1), UUID(int=2)),
        (Principal("a", method="jwt"), Principal("a", method="api-key")),
        (Principal("a", claims={"x": 1}), Principal("a")),
        (Principal("a", limits=("1/day",)), Principal("a")),
        ({1, 2}, {1, 3}),
    ],
)
def test_two_questions(one: Any, other: Any) -> None:
    """What differs in kind, shape or content is not one, however alike it looks."""
    assert canonical(one) != canonical(other)


def test_private_attributes_count() -> None:
    """What a pydantic model keeps to itself is part of it."""
    one, other = Counted(), Counted()
    other._count = 1
    assert canonical(one) != canonical(other)


def test_what_was_set_on_a_dataclass_counts() -> None:
    """Beside its fields, by a dependency that has made it."""
    one, other = Point(1.0, 2.0), Point(1.0, 2.0)
    other.__dict__["mode"] = "other"
    assert canonical(one) != canonical(other)


DTYPES: st.SearchStrategy[np.dtype[Any]] = st.sampled_from([np.dtype(name) for name in ("f8", ">f4", "i2", "U2")])


@given(
    hnp.arrays(
        DTYPES,
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3),
    )
)
def test_rows_are_written_as_they_would_be_alone(array: NDArray[Any]) -> None:
    """A row in a batch is the same question as by itself."""
    assert canonical_rows(array) == [canonical(np.asarray(row)) for row in array]


class Weird:
    """Nothing that is told by what it holds."""


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        Weird(),
        [Weird()],
        Weird,
        np.array([Weird()]),
        np.array([(1, 2)], "i4,i4"),
        np.array([1.0], np.longdouble),
        np.array([1.0], np.clongdouble),
        np.ma.masked_array([1.0], [True]),
        iter([1]),
        {"a": open},
    ],
    ids=[*"abcdefghij"],
)
def test_what_is_not_told_by_what_it_holds(value: Any) -> None:
    """It is an error, and not a guess: also padding that numbers leave, and records."""
    with pytest.raises(NotCanonicalError):
        canonical(value)


def test_what_has_no_end() -> None:
    """Long numbers are written, which Python would not spell, and deep nesting ends in an error and not in a crash."""
    assert canonical(10**5000) != canonical(10**5000 + 1)
    with pytest.raises(NotCanonicalError):
        canonical(deep())


def session() -> Weird:
    return Weird()


T = TypeVar("T")
Numbers = Annotated[np.ndarray[Any, np.dtype[np.float64]], Depends(session)]


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        float,
        str | None,
        list[float],
        dict[str, list[int]],
        Sequence[float],
        Mapping[str, float],
        tuple[int, ...],
        np.ndarray,
        NDArray[np.float64],
        Numbers,
        Row,
        Point,
        Typed,
        Colour,
        Literal["a", "b"],
        Principal,
        EmailStr,
        UUID,
        Any,
        T,
        None,
        np.float64,
    ],
    ids=str,
)
def test_annotations_that_may_do(annotation: Any) -> None:
    """Their values are canonical, or may be."""
    assert not is_foreign(annotation)


@pytest.mark.parametrize(
    "annotation",
    [
        Weird,
        Weird | None,
        list[Weird],
        Annotated[Weird, Depends(session)],
        dict[str, Weird],
        Request,
        HTTPConnection,
        WebSocket,
        Response,
        BackgroundTasks,
        UploadFile,
        list[UploadFile],
    ],
    ids=str,
)
def test_annotations_that_cannot_do(annotation: Any) -> None:
    """They name something by which no question is told from another."""
    assert is_foreign(annotation)


def test_iterators_are_found_by_their_values() -> None:
    """An annotation may promise less than what comes."""
    assert not is_foreign(Iterator[int])
