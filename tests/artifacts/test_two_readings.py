"""What the reading without running makes of a file is what the loading makes of it, instruction by instruction."""

import io
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlguard import NUMPY_ARRAYS, ModelContentError, load_model
from mlguard.artifacts import pickle_globals
from mlguard.artifacts._pickle_contents import PickleContents
from mlguard.artifacts._private_copy import PrivateCopy
from tests.artifacts.test_loading_attacks import FIELD, HEAD, OBJECTS, array, named, number, plain, refuse, text

#: Instructions that make plain values, and such as move them about.
INSTRUCTIONS = (
    *[bytes([code]) for code in b"((012}]l)td\x85\x86\x87\x8f\x90\x91asueN\x88\x89\x94"],
    *[b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"p0\n", b"g1\n", b"r\x01\x00\x00\x00", b"j\x00\x00\x00\x00"],
    *[b"K\x05", b"K\x06", b"M\x05\x00", b"J\x05\x00\x00\x00", b"I01\n", b"I7\n", b"L3L\n", b"\x8a\x01\x05"],
    *[b"\x8b\x01\x00\x00\x00\x05", b"F1.5\n", b"G" + struct.pack(">d", 1.5), b"Vab\n", b"X\x01\x00\x00\x00x"],
    *[b"\x8c\x01y", b"\x8d\x01" + bytes(7) + b"w", b"S'q'\n", b"T\x01\x00\x00\x00q", b"U\x01q"],
    *[b"B\x01\x00\x00\x00b", b"C\x01c", b"\x8e\x01" + bytes(7) + b"z", b"\x96\x01" + bytes(7) + b"z"],
    *[b"\x95" + struct.pack("<Q", 3), b"\x80\x04", b"\x80\x02"],
)


def both(content: bytes) -> tuple[Any, Any]:
    """What the gate makes of a pickle, and what Python's reader does: value, stack and marks. None: it is refused."""
    contents, copy = PickleContents(room=1_000_000), PrivateCopy(content)
    gate = pickle_globals._Reader(copy.stream(), contents, copy.view, 1_000)
    loader: Any = pickle._Unpickler(io.BytesIO(content))
    found: list[tuple[str, int, int] | None] = []
    for reader in (gate, loader):
        try:
            found.append((repr(reader.load()), len(reader.stack), len(reader.metastack)))
        except Exception:
            found.append(None)
    return (None if contents.problems else found[0]), found[1]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(INSTRUCTIONS), min_size=1, max_size=14))
def test_plain_values_are_the_same_in_both(instructions: list[bytes]) -> None:
    """Whatever is done with marks, stacks and what is remembered."""
    gate, loader = both(b"".join(instructions) + b".")
    assert gate is None or gate == loader


def test_plain_values_are_the_same_in_many_more() -> None:
    """The same, drawn without care, ten thousand times; some hundreds are read to the end."""
    draw = random.Random(5)
    read = 0
    for _ in range(10_000):
        content = b"".join(draw.choices(INSTRUCTIONS, k=draw.randint(1, 10))) + b"."
        gate, loader = both(content)
        assert gate is None or gate == loader, content
        read += gate is not None
    assert read > 300


@pytest.mark.parametrize("members", [b"", b"K\x01", b"K\x01K\x02", b"K\x01K\x01"])
def test_a_frozenset_is_one_value(members: bytes, tmp_path: Path) -> None:
    """It stands where its mark was: nothing below it is lost, and nothing is left."""
    assert [one and one[1:] for one in both(b"(" + members + b"\x91.")] == [(0, 0)] * 2
    assert both(b"K\x07(" + members + b"\x910.") == (("7", 0, 0),) * 2
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps([frozenset([1, 2]), {"b": frozenset()}], 4))
    assert load_model(path, unverified=True, allow=NUMPY_ARRAYS) == [frozenset([1, 2]), {"b": frozenset()}]


KILL = b"(\x910"  # makes a frozenset, and throws it away
BENIGN = named("_codecs", "encode") + text("x") + text("latin1") + b"\x86"


@pytest.mark.parametrize(
    "called",
    [
        named("numpy", "ndarray") + KILL + b"K\x01\x85" + OBJECTS + b"C\x08AAAAAAAA\x87",
        named("builtins", "bytes") + KILL + b"C\x03abc\x85",
        named("numpy._core.multiarray", "_reconstruct")
        + KILL
        + named("numpy", "ndarray")
        + number(500)
        + b"\x85"
        + text("i8")
        + b"\x87",
    ],
)
def test_no_call_hides_behind_a_frozenset(called: bytes, tmp_path: Path) -> None:
    """What is judged is what is called."""
    refuse(tmp_path / "model.pkl", HEAD + BENIGN + called + KILL + b"R.")


def without_a_mark(reader: Any) -> None:
    """As a reader would err that forgets what a frozenset leaves on the stack."""
    reader.pop_mark()


@pytest.mark.parametrize(
    "content",
    [
        BENIGN + named("builtins", "bytes") + KILL + b")" + KILL + b"R.",
        named("_codecs", "encode") + b"(" + text("x") + text("latin1") + b"(\x91tR.",
        array(plain((1,)), FIELD, b"C\x08" + bytes(8))[:-2] + b"(\x91tb.",
        b"(\x91" + named("_codecs", "encode") + text("x") + text("latin1") + b"\x86R.",
        b"(\x91q\x000" + named("_codecs", "encode") + text("x") + text("latin1") + b"\x86R.",
    ],
)
def test_a_deceived_gate_lets_nothing_through(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were there such a mistake, both readings would be at different places at the next call."""
    path = tmp_path / "model.pkl"
    monkeypatch.setitem(pickle_globals._Reader.dispatch, pickle.FROZENSET[0], without_a_mark)
    path.write_bytes(HEAD + content)
    with pytest.raises(ModelContentError):
        load_model(path, unverified=True, allow=NUMPY_ARRAYS)


def test_calls_in_arrays_of_objects_are_at_the_same_place(tmp_path: Path) -> None:
    """An array of objects is a pickle of its own within a file of joblib's."""
    joblib = pytest.importorskip("joblib")
    values = [np.array([np.float64(1), {"a": np.arange(3)}, frozenset([1])], object), np.arange(4.0)]
    path = tmp_path / "model.joblib"
    for compress in (0, 3):
        joblib.dump(values, path, compress=compress)
        loaded = load_model(path, unverified=True, allow=NUMPY_ARRAYS)
        assert loaded[0][0] == 1
        assert loaded[0][1]["a"].tolist() == [0, 1, 2]
        assert loaded[1].tolist() == [0, 1, 2, 3]
