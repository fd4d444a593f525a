# that they look alike is the point
"""Data of any shape: what is found in it, and the copy without it."""

import copy
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import uuid
from collections import Counter, OrderedDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from mlguard import Finding, PIISearch, find_pii, mask_pii
from mlguard.privacy import _data_walks
from mlguard.privacy._spans import Span

CARD = "4111111111111111"


@dataclass(frozen=True, slots=True)
class Person:
    email: str
    tags: list[str] = field(default_factory=list)


class Patient(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    given: str = Field(alias="firstName")
    notes: list[str] = []
    person: Person | None = None


Pair = namedtuple("Pair", ["phone", "count"])


def test_findings_have_places_and_no_values() -> None:
    """Path and characters lead to the datum; nothing of a finding repeats it."""
    data = {"users": [{"e_mail": "jane"}, "to jane@example.org."], "jane@example.org": 1, "n": int(CARD)}
    findings = find_pii(data)
    assert findings == [
        Finding("email", ("users", 0, "e_mail")),
        Finding("email", ("users", 1), 3, 19),
        Finding("email", ("[email]",), 0, 16, in_key=True),
        Finding("card", ("n",)),
    ]
    assert "jane" not in repr(findings)
    assert CARD not in repr(findings)
    assert find_pii("no") == []


def test_every_shape_is_looked_into() -> None:
    """And keeps its shape in the copy."""
    data = {
        "list": ["j@x.org"],
        "tuple": ("j@x.org", 1),
        "named": Pair("911", 1),
        "set": {"j@x.org"},
        "frozen": frozenset({"j@x.org"}),
        "ordered": OrderedDict(email="j"),
        "dataclass": Person("j", ["j@x.org"]),
        "model": Patient.model_validate(
            {"firstName": "Jane", "notes": ["j@x.org"], "person": Person("j"), "other": "j@x.org", "ssn": "1"}
        ),
        "bytes": b"to j@x.org",
        "latin": b"\xfc j@x.org",
        "path": pathlib.PurePosixPath("/home/j@x.org"),
        b"j@x.org": 1,
        ("j@x.org", 2): 1,
    }
    before = copy.deepcopy(data)
    masked: dict[Any, Any] = mask_pii(data)
    assert masked == {
        "list": ["[email]"],
        "tuple": ("[email]", 1),
        "named": Pair("[phone]", 1),
        "set": {"[email]"},
        "frozen": frozenset({"[email]"}),
        "ordered": {"email": "[email]"},
        "dataclass": Person("[email]", ["[email]"]),
        "model": Patient.model_validate(
            {
                "firstName": "[name]",
                "notes": ["[email]"],
                "person": Person("[email]"),
                "other": "[email]",
                "ssn": "[national_id]",
            }
        ),
        "bytes": b"to [email]",
        "latin": b"\xfc [email]",
        "path": "/home/[email]",
        b"[email]": 1,
        ("[email]", 2): 1,
    }
    assert data == before
    assert type(masked["named"]) is Pair
    assert [one.in_key for one in find_pii({("j@x.org", 2): "j@x.org"})] == [True, False]


@dataclass
class Open:
    """What its own code may give further attributes."""

    name: str


def test_a_dataclass_may_have_more_than_its_fields() -> None:
    """Such as what was computed once."""
    one = Open("J")
    one.password, one.note = "hunter2", "j@x.org"  # type: ignore[attr-defined]
    assert vars(mask_pii(one)) == {"name": "J", "password": "[secret]", "note": "[email]"}
    assert {finding.kind for finding in find_pii(one)} == {"secret", "email"}
    assert vars(one)["password"] == "hunter2"


class Colour(enum.Enum):
    RED = 1
    MAIL = "j@x.org"


LEAVES: list[Any] = [
    None,
    True,
    0,
    -1,
    7,
    10**20,
    10**500,
    1.5,
    2j,
    float("nan"),
    decimal.Decimal(5),
    datetime.date(2026, 1, 1),
    datetime.timedelta(1),
    uuid.UUID(int=7),
    Colour.RED,
    pathlib.PurePosixPath("/tmp"),
    ipaddress.ip_address("127.0.0.1"),
    np.float32(1.5),
    np.int64(12_345_678),
    np.longdouble(1),
    np.datetime64("2026-01-01"),
    b"\xff\x00",
    "",
    "plain",
]


@pytest.mark.parametrize("leaf", LEAVES, ids=repr)
def test_other_values_stay_as_they_are(leaf: Any) -> None:
    """Counts, times, ids of things: the same object."""
    assert find_pii([leaf]) == []
    assert mask_pii([leaf])[0] is leaf or mask_pii([leaf]) == [leaf]


@pytest.mark.parametrize("leaf", [one for one in LEAVES if one not in (None, True, "")], ids=repr)
def test_under_a_name_every_value_is_a_datum(leaf: Any) -> None:
    """A number, a date or an id is masked where the field's name says so, and so is all that is below it."""
    masked = mask_pii({"phone": leaf, "address": {"a": [leaf]}})
    label = {"phone": "[phone]", "address": {"a": ["[address]"]}}
    if isinstance(leaf, bytes):
        label = {"phone": b"[phone]", "address": {"a": [b"[address]"]}}  # type: ignore[dict-item]
    if isinstance(leaf, ipaddress.IPv4Address):
        assert masked["phone"] == "[phone]"
    else:
        assert masked == label


@pytest.mark.parametrize("leaf", [None, True, "", "  "], ids=repr)
def test_nothing_is_no_datum(leaf: Any) -> None:
    """An empty field says only that it is empty."""
    assert mask_pii({"phone": leaf}) == {"phone": leaf}


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        (int(CARD), "[card]"),
        (np.int64(int(CARD)), "[card]"),
        (float(CARD), "[card]"),
        (np.float64(CARD), "[card]"),
        (decimal.Decimal(CARD), "[card]"),
        (decimal.Decimal(f"{CARD}.00"), "[card]"),
        (np.str_("j@x.org"), "[email]"),
        (np.bytes_(b"j@x.org"), b"[email]"),
        (Colour.MAIL, "[email]"),
        (ipaddress.ip_address("192.0.2.1"), "[ip]"),
        (SecretStr("x"), "[secret]"),
        (bytearray(b"j@x.org"), b"[email]"),
        (np.array(["j@x.org", "b"]), ["[email]", "b"]),
        (np.array([{"email": "j"}], dtype=object), [{"email": "[email]"}]),
        (np.array("j@x.org"), "[email]"),
        (np.array([(1, "j@x.org")], dtype="i4,U9"), [(1, "[email]")]),
    ],
)
def test_values_of_other_types_are_masked(value: Any, masked: Any) -> None:
    """Numbers become texts, arrays of texts lists."""
    assert mask_pii([value]) == [masked]


def test_arrays_of_numbers_are_measurements() -> None:
    """They are copied and not looked into, except where a name says what they are."""
    numbers = np.array([4111111111111111, 5])
    masked = mask_pii({"x": numbers})["x"]
    assert masked is not numbers
    assert masked.tolist() == numbers.tolist()
    assert mask_pii({"phones": numbers}) == {"phones": "[phone]"}


def test_what_cannot_be_read_is_not_passed_on() -> None:
    """Objects that nobody here knows, generators, a circle, and what is too deep: said, and masked."""
    circle: list[Any] = [1]
    circle.append(circle)
    array = np.empty(1, dtype=object)
    array[0] = array
    scalar = np.empty((), dtype=object)
    scalar[()] = scalar
    deep: Any = "j@x.org"
    for _ in range(10_000):
        deep = [deep]
    frame = pd.DataFrame({"email": ["j@x.org"]})
    for value in (object(), (one for one in "a"), circle, array, scalar, deep, frame, Person, memoryview(b"j@x.org")):
        assert "unread" in {one.kind for one in find_pii({"a": value})}
        assert "[unread]" in str(mask_pii({"a": value}))
        assert "x.org" not in str(mask_pii({"a": value}))
    assert mask_pii(frame.to_dict("list")) == {"email": ["[email]"]}


def test_the_same_object_twice_is_no_circle() -> None:
    """It is looked into at both places."""
    one = ["j@x.org"]
    assert mask_pii([one, one]) == [["[email]"], ["[email]"]]


def test_what_multiplies_itself_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of a list of a list, each twice, would be 2**40 lists: beyond a number of values nothing is read."""
    monkeypatch.setattr("mlguard.privacy._data_walks._MAX_VALUES", 1_000)
    bomb: list[Any] = ["x"]
    for _ in range(40):
        bomb = [bomb, bomb]
    assert len(find_pii(bomb)) < 3_000
    assert {one.kind for one in find_pii(bomb)} == {"unread"}


def test_keys_that_become_the_same_lose_nothing() -> None:
    """They are numbered."""
    masked = mask_pii({"a@x.org": 1, "b@x.org": 2, "[email] 2": 3, "c@x.org": 4})
    assert sorted(masked.values()) == [1, 2, 3, 4]
    assert mask_pii(masked) == masked


def test_many_keys_that_become_the_same_take_no_square_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number behind a key is tried once."""
    tried: Counter[str] = Counter()

    class Counted(dict[Any, Any]):
        def __contains__(self, key: object) -> bool:
            tried["keys"] += 1
            return super().__contains__(key)

    free = _data_walks._free
    monkeypatch.setattr(_data_walks, "_free", lambda key, taken, counts: free(key, Counted(taken), counts))
    masked = mask_pii({f"{number}@x.org": number for number in range(100)})
    assert list(masked.values()) == [*range(100)]
    assert tried["keys"] < 300


@pytest.mark.parametrize(
    ("data", "masked"),
    [
        ({b"cookie": b"a=b"}, {b"cookie": b"[secret]"}),
        ({b"cookie:a": b"b"}, {b"cookie:[secret]": b"b"}),
        ([(b"Authorization", b"abc"), (b"host", b"x")], [(b"Authorization", b"[secret]"), (b"host", b"x")]),
        ([["set-cookie", "a=b"]], [["set-cookie", "[secret]"]]),
        (("password", {"a": ["x"]}), ("password", {"a": ["[secret]"]})),
        ((b"\xff", b"x"), (b"\xff", b"x")),
        (("city", "password", "x"), ("city", "password", "x")),
    ],
    ids=repr,
)
def test_headers_as_asgi_has_them_are_masked(data: Any, masked: Any) -> None:
    """Names in bytes, and pairs of a name and a value."""
    assert mask_pii(data) == masked
    assert mask_pii(masked) == masked
    assert bool(find_pii(data)) == (data != masked)


def test_overlapping_data_are_one() -> None:
    """The longest gives the kind, and nothing between them stays."""
    assert mask_pii("a@b.com@c.de") == "[email]"
    assert mask_pii("password=jane@example.org") == "password=[secret]"
    assert mask_pii("x ::ffff:192.0.2.1 y") == "x [ip] y"


PIECES = st.sampled_from(
    [
        "jane@example.org",
        CARD,
        "4111 1111 1111 1111",
        "DE89 3704 0044 0532 0130 00",
        "192.0.2.1",
        "2001:db8::1",
        "AB123456C",
        "password=",
        "token: ",
        '"secret": "',
        "Bearer ",
        "https://a:b@",
        "-----BEGIN PRIVATE KEY-----",
        "-----END",
        "cookie: a=b",
        "[email]",
        "[secret]",
        " ",
        "\n",
        ".",
        "@",
        "-",
        "1",
        "12345678",
        "x",
        "\u200b",
        "４１１１",
        "\u00a0",
        "+49 30 901820",
        "880320-0016",
        '"',
        "'",
        "\\",
        ",",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join))
@example("+49 30 901820" * 20)
@example("password='a\\\n-----BEGIN PRIVATE KEY-----")
def test_masking_what_is_masked_changes_nothing(text: str) -> None:
    """Whatever stands beside whatever."""
    masked = mask_pii(text)
    assert mask_pii(masked) == masked
    if find_pii(text) == []:
        assert masked == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | PIECES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | PIECES | st.just("email"), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
@example({"email": {"-----BEGIN PRIVATE KEY-----": 0, "jane@x.org phone": "911"}})
def test_any_json_can_be_masked(data: Any) -> None:
    """It is not changed, its copy has nothing that is found again, and a copy of the copy is the same."""
    before = copy.deepcopy(data)
    masked = mask_pii(data)
    assert repr(data) == repr(before)
    assert repr(mask_pii(masked)) == repr(masked)
    json.dumps(masked)


@given(JSON, st.sampled_from(["list", "dict", "text"]))
def test_a_planted_datum_does_not_come_out(data: Any, shape: str) -> None:
    """Wherever it is, it is found, and the copy has no trace of it."""
    planted: Any = "zaphod@betelgeuse.example"
    planted = {"list": [data, planted], "dict": {"a": data, "b": [planted]}, "text": f"see {planted}, {data!r}"}[shape]
    assert "email" in {one.kind for one in find_pii(planted)}
    assert "betelgeuse" not in repr(mask_pii(planted))


def test_a_mask_that_goes_on_for_ever_ends() -> None:
    """What it shows is masked a few times, and then stays."""
    assert mask_pii("j@x.org", mask=lambda _, value: f"a{value}") == "a" * 10 + "j@x.org"


def test_a_number_that_has_a_datum_in_it_is_none() -> None:
    """Only a whole number is a card."""
    search = PIISearch(kinds={"ip"}, finders=[_FirstFour()])
    assert mask_pii(12_345_678, search=search) == 12_345_678
    assert mask_pii("12345678", search=search) == "[pin]5678"


class _FirstFour:
    def find(self, text: str) -> list[Span]:
        return [Span(0, 4, "pin"), Span(4, 4, "nothing")] if text.startswith("1234") else []


def test_a_search_of_ones_own_is_used() -> None:
    """By both."""
    search = PIISearch(kinds={"ip"}, fields={"shoe": "health"})
    assert mask_pii({"email": "j@x.org", "shoe": 42}, search=search) == {"email": "j@x.org", "shoe": "[health]"}
    assert [one.kind for one in find_pii("j@x.org 192.0.2.1", search=search)] == ["ip"]
