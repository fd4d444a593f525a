"""Files that want to run something. Each leaves a mark where it is loaded without a gate, and none behind one."""

import copyreg
import io
import os
import pickle
import pickletools
import struct
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures
from sklearn.tree import DecisionTreeClassifier

from mlguard import (
    SKLEARN_ESTIMATORS,
    ModelContentError,
    ModelSignatureError,
    inspect_model,
    load_model,
    sign_model,
)
from tests.artifacts.estimators import CLASSES, COMPRESSIONS, PROTOCOLS, ROWS, joblib_bytes


class Mine:
    """A module that leaves a mark when it is imported, and whose function leaves one when it is called."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "mark"
        (folder / "landmine.py").write_text(
            f"import pathlib\nMARK = pathlib.Path({str(self.mark)!r})\nMARK.touch()\n"
            "def boom(*args, **options):\n    MARK.touch()\n"
            "class Boom:\n    def __init__(self, *args): MARK.touch()\n"
            "    def __setstate__(self, state): MARK.touch()\n",
            encoding="utf-8",
        )

    def stepped_on(self) -> bool:
        """Whether there is a mark. It is wiped off, and the module forgotten."""
        stepped = self.mark.exists() or "landmine" in sys.modules
        self.mark.unlink(missing_ok=True)
        sys.modules.pop("landmine", None)
        return stepped


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mine]:
    """The module, where Python would find it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Mine(tmp_path)
    yield made
    made.stepped_on()


class Payload:
    """Calls ``landmine.boom`` when it is loaded."""

    def __reduce__(self) -> Any:
        import landmine  # type: ignore[import-not-found]

        return landmine.boom, ("x",)


def refuse(path: Path, content: bytes, **options: Any) -> str:
    """The refusal, of a file that may name everything that scikit-learn needs."""
    path.write_bytes(content)
    with pytest.raises(ModelContentError) as refused:
        load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS, **options)
    return str(refused.value)


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def named(module: str, name: str) -> bytes:
    """A global, by protocol 4."""
    return text(module) + text(name) + b"\x93"


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


BOOM = named("landmine", "boom")
FOREST = named("sklearn.ensemble._forest", "RandomForestClassifier")
HEAD = b"\x80\x04"

BY_HAND = {
    "GLOBAL": b"clandmine\nboom\n(tR.",
    "INST": b"(ilandmine\nboom\n.",
    "OBJ": b"(clandmine\nBoom\nI1\no.",
    "STACK_GLOBAL": HEAD + BOOM + b")R.",
    "names from the memo": HEAD + text("boom") + b"\x94" + text("landmine") + b"\x940h\x01h\x00\x93)R.",
    "names in a tuple that is taken apart": HEAD + b"(" + text("landmine") + b"\x94t0h\x00" + text("boom") + b"\x93)R.",
    "NEWOBJ": HEAD + named("landmine", "Boom") + b")\x81}" + text("a") + b"Nsb.",
    "NEWOBJ_EX": HEAD + named("landmine", "Boom") + b")}\x92}b.",
    "a global that is only named": HEAD + BOOM + b".",
    "through another module": HEAD + named("landmine", "pathlib.os.getcwd") + b")R.",
    "broken behind it": HEAD + BOOM + b")R0\xff\xff\xff",
    "nothing behind it": HEAD + BOOM + b")R",
    "a stack that underflows behind it": HEAD + BOOM + b")R000000.",
    "in the middle of an estimator": HEAD + FOREST + b")\x81}" + text("a") + BOOM + b")Rsb.",
    "in a state": HEAD + FOREST + b")\x81" + BOOM + b")Rb.",
    "in a key": HEAD + b"}" + BOOM + b")RNs.",
    "behind a key that takes long to hash": HEAD + b"}N\x85Ns0" + BOOM + b")R.",
    "in a frame": HEAD + b"\x95" + struct.pack("<Q", len(BOOM) + 3) + BOOM + b")R.",
    "across two frames": HEAD + b"\x95" + struct.pack("<Q", len(BOOM)) + BOOM + b")R.",
    "with a class instead of the names": HEAD + BOOM + b"0" + FOREST + text("boom") + b"\x93)R.",
}


@pytest.mark.parametrize("content", BY_HAND.values(), ids=BY_HAND.keys())
def test_nothing_that_is_named_by_hand_runs(content: bytes, mine: Mine, tmp_path: Path) -> None:
    """Every instruction that names or calls something, and whatever is broken behind it."""
    try:
        pickle.loads(content)
    except Exception:
        assert mine.stepped_on()
    else:
        assert mine.stepped_on()
    refusal = refuse(tmp_path / "model.pkl", content)
    assert "landmine" in refusal
    assert "boom" in refusal.lower() or "pathlib" in refusal
    report = inspect_model(tmp_path / "model.pkl")
    assert "landmine" in {module for module, _ in report.globals}
    assert not mine.stepped_on()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("compress", [None, 0, *COMPRESSIONS])
def test_no_payload_runs_in_any_protocol_or_compression(
    protocol: int, compress: Any, mine: Mine, tmp_path: Path
) -> None:
    """By pickle (None) and by joblib, within what looks like a model."""
    if compress == "lz4":
        pytest.importorskip("lz4")
    model = LinearRegression().fit(ROWS, CLASSES)
    model.extra_ = [Payload()]
    content = (
        pickle.dumps(model, protocol)
        if compress is None
        else joblib_bytes(model, protocol=protocol, compress=(compress, 3) if compress else 0)
    )
    mine.stepped_on()
    joblib.load(io.BytesIO(content))
    assert mine.stepped_on()
    assert "landmine.boom" in refuse(tmp_path / "model.joblib", content)
    assert ("landmine", "boom") in inspect_model(tmp_path / "model.joblib").globals
    assert not mine.stepped_on()


@pytest.mark.parametrize("compress", [0, *COMPRESSIONS])
def test_no_payload_runs_in_an_array_of_objects(compress: Any, mine: Mine, tmp_path: Path) -> None:
    """Joblib keeps these as a pickle of their own, which scanners and joblib before 1.6 read past an allow-list."""
    if compress == "lz4":
        pytest.importorskip("lz4")
    model = LinearRegression().fit(ROWS, CLASSES)
    model.extra_ = np.array([Payload(), None], object)
    content = joblib_bytes(model, compress=(compress, 3) if compress else 0)
    mine.stepped_on()
    assert "landmine.boom" in refuse(tmp_path / "model.joblib", content)
    assert not mine.stepped_on()
    joblib.load(io.BytesIO(content))
    assert mine.stepped_on()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_no_payload_runs_in_a_file_of_arrays(suffix: str, mine: Mine, tmp_path: Path) -> None:
    """NumPy keeps arrays of objects as pickles."""
    path = tmp_path / f"model.{suffix}"
    (np.save if suffix == "npy" else np.savez)(path, np.array([Payload()], object), allow_pickle=True)
    mine.stepped_on()
    assert "objects" in refuse(path, path.read_bytes())
    assert not mine.stepped_on()


def test_a_second_pickle_is_found(mine: Mine, tmp_path: Path) -> None:
    """One behind the end of the first, which whoever loads twice would run."""
    content = pickle.dumps([1]) + HEAD + BOOM + b")R."
    assert "landmine.boom" in refuse(tmp_path / "model.pkl", content)
    assert "behind the end" in refuse(tmp_path / "model.pkl", pickle.dumps([1]) + pickle.dumps([1]))
    assert not mine.stepped_on()


def test_nothing_hides_in_the_last_frame(tmp_path: Path) -> None:
    """A frame that goes on behind the end: pickle overlooks the rest, so it could be anything."""
    good = pickle.dumps(["x"] * 30, 4)
    at = good.index(pickle.FRAME) + 1
    length = int.from_bytes(good[at : at + 8], "little")
    longer = good[:at] + (length + 4).to_bytes(8, "little") + good[at + 8 :] + b"junk"
    assert pickle.loads(longer) == pickle.loads(good)
    assert "behind the end" in refuse(tmp_path / "model.pkl", longer)


def test_an_extension_code_is_refused(mine: Mine, tmp_path: Path) -> None:
    """It stands for a global that the file does not name, and Python may remember the function already."""
    import landmine

    copyreg.add_extension("landmine", "boom", 0x4D)
    try:
        for content in (b"\x82\x4d)R.", b"\x83\x4d\x00)R.", b"\x84\x4d\x00\x00\x00)R."):
            mine.mark.unlink(missing_ok=True)
            pickle.loads(HEAD + content)
            assert mine.mark.exists()
            mine.mark.unlink()
            assert "extension" in refuse(tmp_path / "model.pkl", HEAD + content)
            assert not mine.mark.exists()
    finally:
        copyreg.remove_extension("landmine", "boom", 0x4D)
    assert mine.mark == landmine.MARK


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEAD + b"Pid\n.", "persistent id"),
        (HEAD + b"NQ.", "persistent id"),
        (HEAD + b"NQ0NQ.", "persistent id"),
        (b"\x80\x05\x97.", "out-of-band"),
        (b"\x80\x05N\x98.", "out-of-band"),
        (HEAD + FOREST + b"N" + b"}" + text("predict") + FOREST + b"s\x86b.", "no object gets a state"),
        (HEAD + FOREST + b")\x81N}" + text("predict") + FOREST + b"s\x86b.", "no dict"),
        (HEAD + FOREST + b")\x81}" + text("__class__") + FOREST + b"sb.", "one of Python's own"),
        (HEAD + FOREST + b")\x81}" + number(1) + FOREST + b"sb.", "one of Python's own"),
        (HEAD + FOREST + b")\x81}b}b.", "twice"),
        (HEAD + FOREST + b")R.", "it is called"),
        (HEAD + FOREST + number(1) + b"\x85\x81.", "with arguments"),
        (HEAD + FOREST + b")}" + text("a") + b"Ns\x92.", "with options"),
        (HEAD + FOREST + b"]\x81.", "other than a global is called"),
        (HEAD + FOREST + b")\x81" + text("a") + b"a.", "put into an object"),
        (HEAD + FOREST + b")\x81(" + text("a") + b"Nu.", "put into an object"),
        (HEAD + FOREST + b")\x81" + text("a") + b"Ns.", "put into an object"),
        (HEAD + FOREST + b")\x81(N\x90.", "put into an object"),
        (HEAD + FOREST + b"]a.", "put into an object"),
        (HEAD + b"N)R.", "other than a global is called"),
        (HEAD + b"N}b.", "no object gets a state"),
        (HEAD + b"(" + FOREST + b"o.", "Python 2"),
        (HEAD + b"}(NNNu.", "a key without a value"),
        (HEAD + b"}(lNs.", "neither a text nor a number"),
        (HEAD + b"(]\x91.", "neither a text nor a number"),
        (HEAD + b"\x8f(]\x90.", "neither a text nor a number"),
        (HEAD + named("_codecs", "encode") + text("a") + text("zlib") + b"\x86R.", "other than bytes"),
        (HEAD + named("_codecs", "encode") + text("\u20ac") + text("latin1") + b"\x86R.", "other than bytes"),
        (HEAD + named("builtins", "bytes") + number(1 << 30) + b"\x85R.", "with arguments"),
        (HEAD + named("builtins", "object") + b")\x81.", "it is made"),
        (HEAD + named("numpy", "ndarray") + number(9) + b"\x85R.", "it is called"),
        (HEAD + named("builtins", "slice") + b"]NN\x87R.", "other than columns"),
        (HEAD + named("copyreg", "_reconstructor") + FOREST + named("numpy", "ndarray") + b"N\x87R.", "plain instance"),
        (HEAD + named("copyreg", "_reconstructor") + named("numpy", "dtype") + named("builtins", "object") + b"N\x87R.",
         "it is made"),
        (HEAD + named("sklearn.linear_model._sgd_fast", "Hinge") + text("a") + b"\x85R.", "never calls it"),
        (HEAD + named("sklearn.preprocessing._function_transformer", "FunctionTransformer") + b")\x81}"
         + text("func") + FOREST + b"sb.", "has a function"),
        (HEAD + named("sklearn.linear_model._sgd_fast", "Hinge") + b"G" + bytes(8) + b"\x85R}b.", "it gets a state"),
        (HEAD + b"}\x8a\x08" + struct.pack("<q", (1 << 61) - 1) + b"Ns.", "too large a number"),
        (b"Np9999999999999999999999\n.", "in the memo"),
        (b"Np-1\n.", "in the memo"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".", "larger than the file"),
        (b"\x80\x05\x96" + struct.pack("<Q", 12) + b".", "larger than the file"),
        (b"\x80\x04\x80\x06N.", "broken"),
        (b"(t", "broken"),
        (b"]" * 3_000 + b".", "max_instructions"),
    ],
)  # fmt: skip
def test_an_allowed_global_is_used_only_as_people_save_it(content: bytes, said: str, tmp_path: Path) -> None:
    """States that would change a class, functions with other arguments, and instructions for other programs."""
    assert said in refuse(tmp_path / "model.pkl", content, max_instructions=2_000)
    assert inspect_model(tmp_path / "model.pkl", max_instructions=2_000).problems


def test_of_many_problems_some_are_told(tmp_path: Path) -> None:
    """Nobody reads on; and that there are more is no reason to let one pass."""
    names = sorted(name for name in SKLEARN_ESTIMATORS if name[0].startswith("sklearn."))[:30]
    content = HEAD + b"".join([named(*name) + b"]R0" for name in names] + [named(*name) + b")R0" for name in names])
    said = refuse(tmp_path / "model.pkl", content + b"N.")
    assert len(said.split("; ")) == 20
    assert len(inspect_model(tmp_path / "model.pkl").problems) == 20


def test_names_of_python_2_are_those_of_python_3(tmp_path: Path) -> None:
    """As they would be when the file is loaded."""
    assert "builtins.range" in refuse(tmp_path / "model.pkl", b"c__builtin__\nxrange\n.")
    assert "builtins.eval" in refuse(tmp_path / "model.pkl", b"c__builtin__\neval\n.")


def test_tuples_are_no_keys(tmp_path: Path) -> None:
    """Hashing one of tuples takes twice as long for each byte that it is longer."""
    tuples = b"N" + b"\x94h" + bytes([0]) + b"\x86"
    for depth in range(1, 60):
        tuples += b"\x94h" + bytes([depth]) + b"\x86"
    assert "neither a text nor a number" in refuse(tmp_path / "model.pkl", HEAD + b"}" + tuples + b"Ns.")


def dtype(code: str, state: tuple[Any, ...]) -> bytes:
    """A dtype with a state of one's own."""
    made = HEAD + named("numpy", "dtype") + text(code) + b"\x89\x88\x87R"
    return made + plain(state) + b"b"


def test_names_of_fields_are_looked_at_before_they_are_hashed(tmp_path: Path) -> None:
    """Hashing one of tuples takes for ever, and nobody has allowed anything yet."""
    names: Any = ()
    for _ in range(60):
        names = (names, names)
    assert "fields that" in refuse(tmp_path / "model.pkl", dtype("V8", (3, "|", None, names, {}, 8, 1, 0)) + b".")


def plain(value: Any) -> bytes:
    """The instructions that make a value, without a head and an end."""
    dumped = pickletools.optimize(pickle.dumps(value, 2))
    return dumped[2:-1]


GOOD = ("<", None, None, None, -1, -1, 0)


@pytest.mark.parametrize(
    "content",
    [
        dtype("f8", (3, *GOOD[:-1], 63)),  # numbers as references to objects
        dtype("f8", (3, *GOOD[:-1], 1)),
        dtype("f8", (3, "<", None, None, None, 800, -1, 0)),
        dtype("f8", (3, "<", None, ("a",), {"a": 1}, -1, -1, 0)),
        dtype("f8", (3, "<", ("f8", (2,)), None, None, -1, -1, 0)),
        dtype("f8", (3, "q", None, None, None, -1, -1, 0)),
        dtype("f8", (4, *GOOD, {})),
        dtype("f8", ()),
        dtype("O8", (3, *GOOD[:-1], 0)),  # objects that nobody counts
        dtype("V8", (3, "|", None, ("a",), {"b": 1}, 8, 1, 0)),
        dtype("V8", (3, "|", None, ("a", "a"), {"a": 1}, 8, 1, 0)),
        dtype("V8", (3, "|", None, ("a",), {"a": (1, 0)}, 8, 1, 0)),
        dtype("V8", (3, "|", None, ("a",), {"a": (1,)}, 8, 1, 0)),
        dtype("V8", (3, "|", None, ("a",), {"a": 1}, 9, 1, 0)),
        dtype("V8", (3, "|", None, ("a",), {"a": 1}, 8, 3, 0)),
        dtype("V8", (3, "|", None, ("a",), {"a": 1}, 8, 1, 63)),
        dtype("V8", (3, "|", None, (1,), {1: 1}, 8, 1, 0)),
        dtype("V8", (3, "|", None, None, None, 8, 1, 0)),
        HEAD
        + named("numpy._core.multiarray", "scalar")
        + named("numpy", "dtype")
        + text("f8")
        + b"\x89\x88\x87R"
        + b"C\x08"
        + bytes(8)
        + b"\x86R",  # a dtype without a state
        HEAD + named("numpy", "dtype") + text("f8") + b"\x85R",
        *[
            HEAD
            + named("numpy", "dtype")
            + text("i8")
            + flags
            + b"\x87R"
            + b"(K\x03"
            + text(">")
            + b"NNN"
            + number(-1)
            + number(-1)
            + b"K\x00tb"
            for flags in (b"\x89\x89", b"K\x00K\x00", b"\x88\x88", b"\x89K\x02")
        ],
        HEAD + named("numpy", "dtype") + text("M8") + b"\x89\x88\x87R",
        HEAD + named("numpy", "dtype") + text("f8,f8") + b"\x89\x88\x87R",
    ],
)
def test_a_dtype_has_only_a_state_that_numpy_writes(content: bytes, tmp_path: Path) -> None:
    """With another, numbers would be references to objects, and fields would reach beyond the end of memory."""
    assert "numpy." in refuse(tmp_path / "model.pkl", content + b".")


FIELD = dtype("i8", (3, *GOOD))[2:]


@pytest.mark.parametrize("offset", [0, 1, -1, 8, 1 << 31])
def test_a_field_ends_where_its_row_does(offset: int, tmp_path: Path) -> None:
    """Another offset would reach what is beside the array."""
    field = b"}" + text("a") + FIELD + plain(offset) + b"\x86s"
    made = HEAD + named("numpy", "dtype") + text("V8") + b"\x89\x88\x87R"
    content = (
        made + b"(" + plain(3) + text("|") + b"N" + plain(("a",)) + field + plain(8) + plain(1) + plain(0) + b"tb."
    )
    if offset == 0:
        (tmp_path / "model.pkl").write_bytes(content)
        load_model(tmp_path / "model.pkl", unverified=True, allow=SKLEARN_ESTIMATORS)
    else:
        assert "numpy.dtype: " in refuse(tmp_path / "model.pkl", content)


@pytest.mark.parametrize(("second", "good"), [(0, False), (4, False), (7, False), (8, True)])
def test_fields_do_not_overlap(second: int, good: bool, tmp_path: Path) -> None:
    """NumPy copies them one after the other, and what was looked at would be overwritten."""
    names = plain(("a", "b"))
    fields = b"}(" + text("a") + FIELD + plain(0) + b"\x86" + text("b") + FIELD + plain(second) + b"\x86u"
    made = HEAD + named("numpy", "dtype") + text("V16") + b"\x89\x88\x87R"
    content = made + b"(" + plain(3) + text("|") + b"N" + names + fields + plain(16) + plain(1) + plain(0) + b"tb."
    if good:
        (tmp_path / "model.pkl").write_bytes(content)
        assert load_model(tmp_path / "model.pkl", unverified=True, allow=SKLEARN_ESTIMATORS).names == ("a", "b")
    else:
        assert "overlap" in refuse(tmp_path / "model.pkl", content)


OBJECTS = dtype("O8", (3, "|", None, None, None, -1, -1, 63))[2:]
EMPTY = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + number(0) + b"\x85C\x01b\x87R"


def array(shape: bytes, kind: bytes, values: bytes, *, order: bytes = b"\x89", version: int = 1) -> bytes:
    """An array with a state of one's own."""
    return EMPTY + b"(" + plain(version) + shape + kind + order + values + b"tb"


@pytest.mark.parametrize(
    ("content", "good"),
    [
        (array(plain((2,)), OBJECTS, b"](NNe"), True),
        (array(plain((2,)), OBJECTS, b"]Na"), False),  # NumPy reads beyond the end of the list
        (array(plain((2,)), OBJECTS, b"](NNNe"), False),
        (array(plain((2,)), OBJECTS, b"C\x10" + bytes(16)), False),
        (array(plain((1,)), FIELD, b"C\x08" + bytes(8)), True),
        (array(plain((2,)), FIELD, b"C\x08" + bytes(8)), False),
        (array(plain((-1,)), FIELD, b"C\x08" + bytes(8)), False),
        (array(plain((1,) * 65), FIELD, b"C\x08" + bytes(8)), False),
        (array(plain([1]), FIELD, b"C\x08" + bytes(8)), False),
        (array(plain((1,)), FIELD, b"]Na"), False),
        (array(plain((1,)), b"N", b"C\x08" + bytes(8)), False),
        (array(plain((1,)), named("numpy", "dtype") + text("V8") + b"\x89\x88\x87R", b"C\x08" + bytes(8)), False),
        (array(plain((1,)), FIELD, b"C\x08" + bytes(8), order=b"N"), False),
        (array(plain((1,)), FIELD, b"C\x08" + bytes(8), version=2), False),
        (array(plain((1,)), FIELD, b"C\x08" + bytes(8)) + b"Nb", False),
        (EMPTY + b"Nb", False),
        (named("numpy._core.multiarray", "_reconstruct") + FOREST + number(0) + b"\x85C\x01b\x87R", False),
        (named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + number(9) + b"\x85C\x01b\x87R",
         False),
        (named("numpy._core.multiarray", "scalar") + FIELD + b"C\x08" + bytes(8) + b"\x86R", True),
        (named("numpy._core.multiarray", "scalar") + FIELD + b"C\x04" + bytes(4) + b"\x86R", False),
        (named("numpy._core.multiarray", "scalar") + OBJECTS + b"C\x08" + bytes(8) + b"\x86R", False),
        (named("numpy._core.multiarray", "scalar") + OBJECTS + b"N\x86R", False),
        (named("numpy._core.numeric", "_frombuffer") + b"(C\x08" + bytes(8) + FIELD + plain((1,)) + text("C") + b"tR",
         True),
        (named("numpy._core.numeric", "_frombuffer") + b"(C\x08" + bytes(8) + FIELD + plain((2,)) + text("C") + b"tR",
         False),
        (named("numpy._core.numeric", "_frombuffer") + b"(C\x08" + bytes(8) + OBJECTS + plain((1,)) + text("C") + b"tR",
         False),
        (named("numpy._core.numeric", "_frombuffer") + b"(N" + FIELD + plain((1,)) + text("C") + b"tR", False),
    ],
)  # fmt: skip
def test_an_array_has_as_much_as_its_shape_says(content: bytes, good: bool, tmp_path: Path) -> None:
    """In numbers and in objects, and scalars too."""
    path = tmp_path / "model.pkl"
    if good:
        path.write_bytes(HEAD + content + b".")
        load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS)
    else:
        assert "numpy." in refuse(path, HEAD + content + b".")


class Wrapped:
    """What joblib would write, with a member of its wrapper changed."""

    def __init__(self, **changed: Any) -> None:
        self.changed = changed

    def content(self) -> bytes:
        wrapper = joblib.numpy_pickle.NumpyArrayWrapper(np.ndarray, (4,), "C", np.dtype("f8"), allow_mmap=True)
        wrapper.__dict__.update(self.changed)
        padding = b"" if wrapper.numpy_array_alignment_bytes is None else b"\x02\xff\xff"
        return pickle.dumps(wrapper, 2)[:-1] + padding + bytes(32) + b"."


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({}, True),
        ({"numpy_array_alignment_bytes": None}, True),
        ({"dtype": np.dtype(">f8")}, True),
        ({"order": "F"}, True),
        ({"shape": (1 << 40,)}, False),
        ({"shape": (-4,)}, False),
        ({"shape": (5,)}, False),
        ({"shape": (1 << 63, 1 << 63)}, False),
        ({"shape": [4]}, False),
        ({"order": "K"}, False),
        ({"dtype": "f8"}, False),
        ({"subclass": np.dtype}, False),
        ({"numpy_array_alignment_bytes": 1000}, False),
        ({"numpy_array_alignment_bytes": "x"}, False),
        ({"read": "x"}, False),
    ],
)
def test_joblib_reads_no_array_beyond_the_end(changed: dict[str, Any], good: bool, tmp_path: Path) -> None:
    """Nor makes room for one that the file does not have, nor makes something else of it."""
    path = tmp_path / "model.joblib"
    content = Wrapped(**changed).content()
    if good:
        path.write_bytes(content)
        assert load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS).tolist() == [0.0] * 4
    else:
        assert "joblib.numpy_pickle.NumpyArrayWrapper: " in refuse(path, content)


def test_an_array_of_objects_holds_no_array_of_joblibs(tmp_path: Path) -> None:
    """Joblib itself would not read its bytes there, but take them for instructions."""
    inner = Wrapped().content()
    outer = pickle.dumps(joblib.numpy_pickle.NumpyArrayWrapper(np.ndarray, (1,), "C", np.dtype(object)), 2)[:-1]
    assert "within an array of objects" in refuse(tmp_path / "model.joblib", outer + inner + b".")
    assert "no array of objects" in refuse(tmp_path / "model.joblib", outer + pickle.dumps(5) + b".")


def test_fields_stay_as_they_were_looked_at(tmp_path: Path) -> None:
    """NumPy keeps the dict that it is given. Another offset in it would reach what is beside the array."""
    fields = plain({}) + b"q\x01" + text("a") + FIELD + b"K\x00\x86s"
    structured = named("numpy", "dtype") + text("V8") + b"\x89\x88\x87R(K\x03" + text("|") + b"N" + text("a") + b"\x85"
    structured = structured + fields + b"K\x08K\x01K\x00tb"
    later = b"0h\x01" + text("a") + FIELD + number(1024) + b"\x86s0"
    path = tmp_path / "model.pkl"
    path.write_bytes(HEAD + structured + b".")
    assert load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS).fields == {"a": (np.dtype("i8"), 0)}
    assert "changed after" in refuse(path, HEAD + structured + later + b"N.")


@pytest.mark.parametrize("code", ["c16", "f16", "V8"])
def test_a_scalar_that_is_a_key_is_a_real_number_or_a_text(code: str, tmp_path: Path) -> None:
    """Any number of complex ones have the same hash: a dict of them takes as long as the square of their number."""
    scalar = named("numpy._core.multiarray", "scalar")
    kind = named("numpy", "dtype") + text(code) + b"\x89\x88\x87R(K\x03" + text("|" if code[0] == "V" else "<") + b"N"
    if code[0] == "V":
        kind += text("a") + b"\x85}" + text("a") + FIELD + b"K\x00\x86sK\x08K\x01K\x00tb"
    else:
        kind += b"NN" + number(-1) + number(-1) + b"K\x00tb"
    values = b"C" + bytes([int(code[1:])]) + bytes(int(code[1:]))
    assert "neither a text" in refuse(tmp_path / "model.pkl", HEAD + b"}" + scalar + kind + values + b"\x86RNs.")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({np.float64(1): 1, np.str_("a"): 2, np.int64(3): 3}))
    assert load_model(tmp_path / "model.pkl", unverified=True, allow=SKLEARN_ESTIMATORS)[1.0] == 1


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_a_file_holds_is_not_copied_without_end(protocol: int, tmp_path: Path) -> None:
    """A few bytes say that a megabyte is to be copied once more."""
    call = pickle.dumps([np.full(100_000, 1.0, ">f8")], protocol)
    path = tmp_path / "model.pkl"
    path.write_bytes(call)
    load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS, max_instructions=100)
    encode = named("_codecs", "encode") + b"q\x00" + b"X" + struct.pack("<I", 100_000) + b"a" * 100_000
    encode = HEAD + encode + text("latin1") + b"\x86q\x01R" + 9 * b"0h\x00h\x01R" + b"."
    assert "more memory" in refuse(path, encode, max_instructions=1_000)
    nones = b"(" + 3_000 * b"N" + b"lq\x09"
    arrays = array(plain((3_000,)), OBJECTS, nones) + 30 * array(plain((3_000,)), OBJECTS, b"h\x09")
    assert "more memory" in refuse(path, HEAD + arrays + b".", max_instructions=5_000)


@pytest.mark.parametrize("version", [5, ["1.9"], "1" * 65, "1.9\nforged"])
def test_the_version_of_an_estimator_is_a_short_text(version: Any, tmp_path: Path) -> None:
    """Scikit-learn puts it into a warning: lists of lists of themselves would take for ever to be spelled."""
    content = HEAD + named("sklearn.linear_model._base", "LinearRegression") + b")\x81"
    assert "a version" in refuse(tmp_path / "model.pkl", content + plain({"_sklearn_version": version}) + b"b.")


def test_a_size_is_no_larger_than_memory(tmp_path: Path) -> None:
    """To multiply numbers of a hundred megabytes takes minutes."""
    assert "a shape that is none" in refuse(
        tmp_path / "model.pkl", HEAD + array(plain((1 << 63, 0)), FIELD, b"C\0") + b"."
    )


def test_a_name_of_any_length_is_told_in_part(tmp_path: Path) -> None:
    """The refusal is a line of a log."""
    assert len(refuse(tmp_path / "model.pkl", b"c" + b"m" * 100_000 + b"\n" + b"n" * 100_000 + b"\n.")) < 1_500


# Trees ---------------------------------------------------------------------------------------------------------------


def tree_with(**changes: Any) -> bytes:
    """A tree, some of whose nodes or numbers are changed."""
    estimator = DecisionTreeClassifier(max_depth=3, random_state=0).fit(ROWS, CLASSES)
    make, arguments, state = estimator.tree_.__reduce__()
    for name, value in changes.items():
        if name == "view":
            state["nodes"] = state["nodes"].view(value)
        elif name in state:
            state[name] = value
        else:
            node, number = value
            state["nodes"][name][node] = number

    class Tree:
        def __reduce__(self) -> Any:
            return make, arguments, state

    estimator.tree_ = Tree()
    return pickle.dumps(estimator)


@pytest.mark.parametrize(
    "changes",
    [
        {"left_child": (0, 1 << 40)},  # reads what is beside the tree
        {"right_child": (0, 1 << 40)},
        {"left_child": (0, -5)},
        {"left_child": (0, 0)},  # a circle
        {"right_child": (2, 0)},
        {"right_child": (0, 1)},  # one node with two parents
        {"left_child": (0, -1)},  # more nodes than the tree has
        {"right_child": (0, -1)},
        {"feature": (0, 4)},  # reads what is beside the row
        {"feature": (0, -1)},
        {"feature": (0, 1 << 40)},
        {"max_depth": 2},  # decision_path writes beyond its array
        {"max_depth": 0},
        {"max_depth": "3"},
        {"node_count": 1 << 30},
        {"node_count": 1},
        {"nodes": np.zeros(9, "i8")},
        {"nodes": 5},
        {"values": 5},
    ],
)
def test_the_nodes_of_a_tree_are_a_tree(changes: dict[str, Any], tmp_path: Path) -> None:
    """Scikit-learn's native code follows them without looking."""
    path = tmp_path / "model.pkl"
    path.write_bytes(tree_with())
    loaded = load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS)
    assert loaded.decision_path(ROWS).shape[0] == len(ROWS)
    assert "sklearn.tree._tree.Tree" in refuse(path, tree_with(**changes))


def test_the_fields_of_a_node_are_in_their_order(tmp_path: Path) -> None:
    """Scikit-learn compares them by name, and NumPy takes them over in order: the number of rows would be a child."""
    row = DecisionTreeClassifier(random_state=0).fit(ROWS, CLASSES).tree_.__getstate__()["nodes"].dtype
    for other in ("n_node_samples", "right_child", "feature"):
        names = [{"left_child": other, other: "left_child"}.get(name, name) for name in row.names]
        formats, offsets = zip(*(row.fields[name] for name in names), strict=True)
        permuted = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": row.itemsize})
        assert "never writes" in refuse(tmp_path / "model.pkl", tree_with(view=permuted))


def test_a_tree_is_of_as_many_features_as_its_estimator(tmp_path: Path) -> None:
    """The estimator looks at the rows, and the tree reads them."""
    estimator = DecisionTreeClassifier(random_state=0).fit(ROWS, CLASSES)
    for features in (3, None, "4"):
        estimator.n_features_in_ = features
        assert "another number of features" in refuse(tmp_path / "model.pkl", pickle.dumps(estimator))
    estimator.tree_ = [estimator.tree_]
    assert "its tree is none" in refuse(tmp_path / "model.pkl", pickle.dumps(estimator))
    unfitted = pickle.dumps(DecisionTreeClassifier())
    (tmp_path / "model.pkl").write_bytes(unfitted)
    load_model(tmp_path / "model.pkl", unverified=True, allow=SKLEARN_ESTIMATORS)


def test_a_tree_without_nodes_is_refused(tmp_path: Path) -> None:
    """It would crash whoever asks it."""
    tree = HEAD + named("sklearn.tree._tree", "Tree") + number(4)
    classes = array(plain((1,)), FIELD, b"C\x08" + struct.pack("<q", 2))
    assert "not finished" in refuse(tmp_path / "model.pkl", tree + classes + number(1) + b"\x87R.")
    for features, outputs in ((0, 1), (4, 2), (4, 0)):
        tree = HEAD + named("sklearn.tree._tree", "Tree") + number(features)
        assert "Tree: " in refuse(tmp_path / "model.pkl", tree + classes + number(outputs) + b"\x87R.")
    none = array(plain((1,)), FIELD, b"C\x08" + struct.pack("<q", 0))
    tree = HEAD + named("sklearn.tree._tree", "Tree") + number(4)
    for kinds in (none, b"N", array(plain((1,)), dtype("f8", (3, *GOOD))[2:], b"C\x08" + bytes(8))):
        assert "Tree: " in refuse(tmp_path / "model.pkl", tree + kinds + number(1) + b"\x87R.")


# Polynomials ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"_n_out_full": 2_000},  # the answer has what was in memory before
        {"_n_out_full": 14},
        {"_n_out_full": "15"},
        {"n_output_features_": 16},
        {"n_output_features_": None},
        {"n_features_in_": 3},
        {"n_features_in_": None},
        {"_min_degree": 2},
        {"_min_degree": 3},
        {"_max_degree": 3},
        {"_max_degree": -1},
        {"_max_degree": np.int64(-1)},
        {"_max_degree": 1 << 60, "n_features_in_": 1 << 60},  # to count these takes for ever
        {"_min_degree": 1 << 60, "n_features_in_": 1 << 60},
        {"include_bias": False},
        {"include_bias": 1},
        {"interaction_only": True},
        {"interaction_only": []},
    ],
)
def test_polynomials_fill_all_their_columns(changes: dict[str, Any], tmp_path: Path) -> None:
    """Scikit-learn makes room for as many as they say, and fills as many as there are."""
    polynomials = PolynomialFeatures(2).fit(np.zeros((1, 4)))
    polynomials.__dict__.update(changes)
    assert "PolynomialFeatures: " in refuse(tmp_path / "model.pkl", pickle.dumps(polynomials))


@pytest.mark.parametrize("degree", [0, 1, 3, np.int64(2), (0, 2), (1, 3), (2, 2), (3, 5)])
@pytest.mark.parametrize("interaction_only", [True, False])
@pytest.mark.parametrize("include_bias", [True, False])
@pytest.mark.parametrize("features", [1, 2, 5, 70])
def test_polynomials_as_scikit_learn_counts_them(
    degree: Any, interaction_only: bool, include_bias: bool, features: int, tmp_path: Path
) -> None:
    """Of any degrees."""
    polynomials = PolynomialFeatures(degree, interaction_only=interaction_only, include_bias=include_bias)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(polynomials))
    load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS)
    if degree == 0 and not include_bias:
        return  # nothing would be left
    path.write_bytes(pickle.dumps(polynomials.fit(np.zeros((1, features)))))
    loaded = load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS)
    assert loaded.n_output_features_ == polynomials.n_output_features_


# Encoders ------------------------------------------------------------------------------------------------------------


def encoder_with(changes: dict[str, Any], **options: Any) -> bytes:
    """An encoder, some of whose attributes are changed."""
    encoder = OneHotEncoder(handle_unknown="ignore", **options).fit(np.arange(12).reshape(-1, 1) % 4)
    encoder.__dict__.update(changes)
    return pickle.dumps(encoder)


@pytest.mark.parametrize(
    "changes",
    [
        {"_n_features_outs": [1]},  # SciPy writes beyond its array
        {"_n_features_outs": [5]},
        {"_n_features_outs": [4, 4]},
        {"_n_features_outs": ["4"]},
        {"_n_features_outs": (4,)},
        {"_n_features_outs": None},
        {"n_features_in_": 2},
        {"categories_": [np.array([0, 1, 2])]},
        {"categories_": [np.array([3, 2, 1, 0])]},
        {"categories_": [np.array([[0, 1, 2, 3]])]},
        {"categories_": [np.array([0, 1, 2, 3], complex)]},
        {"categories_": [[0, 1, 2, 3]]},
        {"_drop_idx_after_grouping": np.array([4], object)},
        {"_drop_idx_after_grouping": np.array([-1], object), "_n_features_outs": [3]},
        {"_drop_idx_after_grouping": np.array([None], object), "_n_features_outs": [3]},
        {"_drop_idx_after_grouping": np.array([np.int64(9)], object), "_n_features_outs": [3]},
        {"_drop_idx_after_grouping": np.array([np.float64(0)], object), "_n_features_outs": [3]},
        {"_drop_idx_after_grouping": np.array(["0"], object), "_n_features_outs": [3]},
        {"_drop_idx_after_grouping": [0], "_n_features_outs": [3]},
        {"_infrequent_enabled": True},
        {"_infrequent_enabled": 1},
    ],
)
def test_an_encoder_has_as_many_columns_as_categories(changes: dict[str, Any], tmp_path: Path) -> None:
    """SciPy writes the categories into the columns without looking."""
    path = tmp_path / "model.pkl"
    path.write_bytes(encoder_with({}))
    load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS)
    assert "OneHotEncoder: " in refuse(path, encoder_with(changes))


@pytest.mark.parametrize(
    ("member", "more"), [("_n_features_outs", b"J" + struct.pack("<i", -3)), ("categories_", b"N")]
)
def test_an_encoder_stays_as_it_was_looked_at(member: str, more: bytes, tmp_path: Path) -> None:
    """What is put into its lists later would be columns that no category has."""
    encoder = OneHotEncoder().fit(ROWS)
    both = pickle.dumps([encoder, getattr(encoder, member)], 3)
    assert both.endswith(b"e.")
    assert "changed after" in refuse(tmp_path / "model.pkl", both[:-2] + more + b"ae.")


@pytest.mark.parametrize(
    "changes",
    [
        {"_default_to_infrequent_mappings": [None]},
        {"_default_to_infrequent_mappings": []},
        {"_default_to_infrequent_mappings": [np.array([0, 1, 9, 2])]},
        {"_default_to_infrequent_mappings": [np.array([0, 1, -1, 2])]},
        {"_default_to_infrequent_mappings": [np.array([0, 1, 2])]},
        {"_default_to_infrequent_mappings": [np.array([0.0, 1, 2, 1])]},
        {"_infrequent_indices": [None]},
        {"_infrequent_indices": None},
    ],
)
def test_an_encoder_has_as_many_columns_as_groups(changes: dict[str, Any], tmp_path: Path) -> None:
    """Where rare categories share one."""
    path = tmp_path / "model.pkl"
    path.write_bytes(encoder_with({}, max_categories=2))
    load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS)
    assert "OneHotEncoder: " in refuse(path, encoder_with(changes, max_categories=2))


# Files that change ---------------------------------------------------------------------------------------------------


def test_what_was_verified_is_what_is_loaded(mine: Mine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody puts another file there, just after the signature was verified."""
    from mlguard.artifacts import loading
    from mlguard.artifacts.signing import signed_files as verify

    path = tmp_path / "model.joblib"
    path.write_bytes(joblib_bytes(LinearRegression().fit(ROWS, CLASSES)))
    key = generate_private_key(SECP256R1())
    sign_model(path, key)

    def verify_and_replace(*args: Any, **options: Any) -> Any:
        verified = verify(*args, **options)
        path.write_bytes(HEAD + BOOM + b")R.")
        return verified

    monkeypatch.setattr(loading, "signed_files", verify_and_replace)
    with pytest.raises(ModelSignatureError, match="its SHA-256 is another"):
        load_model(path, key=key.public_key(), allow={("landmine", "boom")} | SKLEARN_ESTIMATORS)
    assert not mine.stepped_on()


def test_a_file_that_is_written_all_the_time_is_good_or_refused(mine: Mine, tmp_path: Path) -> None:
    """Never the one that was verified in one moment and another in the next."""
    import hashlib

    good, bad = pickle.dumps(list(range(50_000))), (HEAD + BOOM + b")R0N.").ljust(150_000, b".")
    path = tmp_path / "model.pkl"
    path.write_bytes(good)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in (bad, good):
                with path.open("r+b") as file:
                    file.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    outcomes = set()
    try:
        for _ in range(100):
            try:
                allow = {("landmine", "boom")}
                loaded = load_model(path, sha256=hashlib.sha256(good).hexdigest(), allow=allow)
                outcomes.add(loaded == list(range(50_000)))
            except (ModelSignatureError, ModelContentError):
                outcomes.add(None)
    finally:
        stop.set()
        writer.join()
    assert False not in outcomes
    assert None in outcomes
    assert not mine.stepped_on()


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or shrinks: what was read may be a bit of both."""
    from mlguard.artifacts import _private_copy

    path = tmp_path / "model.pkl"
    reserve = _private_copy._memory
    for changed in (b"N.", b"N...", b"NN."):

        def change(size: int, content: bytes = changed) -> Any:
            path.write_bytes(content)
            os.utime(path, ns=(5, 5))
            return reserve(size)

        path.write_bytes(b"N0.")
        monkeypatch.setattr(_private_copy, "_memory", change)
        with pytest.raises(ModelContentError, match="changed while it was read"):
            load_model(path, unverified=True)


# Zip files -----------------------------------------------------------------------------------------------------------


def zipped(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_file_is_one_archive_and_nothing_else(tmp_path: Path) -> None:
    """Nothing before it, behind it or twice in it, and no more than it says."""
    path = tmp_path / "model.npz"
    good = zipped(("a.npy", npy([1.0, 2.0])), ("b.npy", npy([3])))
    path.write_bytes(good)
    assert load_model(path, unverified=True)["a"].tolist() == [1.0, 2.0]
    assert "does not end" in refuse(path, good + b"x")
    assert "does not end" in refuse(path, good[:-1])
    assert "stands before" in refuse(path, good[:4] + b"junk" * 9 + good)
    assert "two of one name" in refuse(path, zipped(("a.npy", npy([1])), ("a.npy", npy([2]))))
    assert "other than arrays" in refuse(path, zipped(("a.pkl", b"N.")))
    assert "more than max_size" in refuse(path, zipped(("a.npy", npy(np.zeros(100_000)))), max_size=10_000)
    assert "broken" in refuse(path, good.replace(b"a.npy", b"c.npy", 1))
    assert "broken" in refuse(path, good[:-10] + b"\xff" * 8 + good[-2:])
    assert "encrypted" in refuse(
        path, good.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    )


if os.name != "nt":

    def test_a_pipe_or_a_device_is_no_model(tmp_path: Path) -> None:
        """Nobody waits for the other end of a pipe."""
        path = tmp_path / "model.pkl"
        os.mkfifo(path)
        for place in (path, Path("/dev/zero")):
            with pytest.raises(ModelContentError, match="not a file"):
                load_model(place, unverified=True, format="pickle")
