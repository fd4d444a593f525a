"""The gate in front of a model file: which file it has to be, what it is, and what is told about it."""

import hashlib
import io
import json
import logging
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from mlguard import (
    NUMPY_ARRAYS,
    SKLEARN_ESTIMATORS,
    SKLEARN_FORESTS,
    SKLEARN_LINEAR,
    ConfigurationError,
    ModelContentError,
    ModelSignatureError,
    inspect_model,
    load_model,
    sign_model,
)
from tests.artifacts.estimators import CLASSES, COMPRESSIONS, ROWS, joblib_bytes

MODEL = LogisticRegression(max_iter=1000).fit(ROWS, CLASSES)
KEY = generate_private_key(SECP256R1())
PUBLIC = KEY.public_key()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model that joblib has saved."""
    place = tmp_path / "model.joblib"
    place.write_bytes(joblib_bytes(MODEL))
    return place


# Which file it has to be ---------------------------------------------------------------------------------------------


def test_a_signed_file_is_loaded(path: Path) -> None:
    """And refused when it was altered, when another key has signed it, and when it was called by another name."""
    sign_model(path, KEY)
    loaded = load_model(path, key=PUBLIC, name="model.joblib", allow=SKLEARN_LINEAR)
    assert np.array_equal(loaded.predict(ROWS), MODEL.predict(ROWS))
    with pytest.raises(ModelSignatureError):
        load_model(path, key=generate_private_key(SECP256R1()).public_key(), allow=SKLEARN_LINEAR)
    with pytest.raises(ModelSignatureError):
        load_model(path, key=PUBLIC, name="iris", allow=SKLEARN_LINEAR)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelSignatureError):
        load_model(path, key=PUBLIC, allow=SKLEARN_LINEAR)


def test_a_file_in_a_signed_folder_is_loaded(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole folder is verified, and the file must be in it, and be signed."""
    folder = tmp_path / "iris"
    (folder / "deep").mkdir(parents=True)
    inside = folder / "deep" / "model.joblib"
    path.rename(inside)
    (folder / "README.md").write_text("A model.")
    monkeypatch.chdir(tmp_path)
    sign_model(folder, KEY, name="iris")
    for root in (folder, "iris", Path("iris")):
        load_model(inside, directory=root, key=PUBLIC, name="iris", allow=SKLEARN_LINEAR)
    with pytest.raises(ConfigurationError, match="not in it"):
        load_model(path, directory=folder, key=PUBLIC, allow=SKLEARN_LINEAR)
    with pytest.raises(ModelSignatureError, match="not among"):
        load_model(folder / "other.joblib", directory=folder, key=PUBLIC, allow=SKLEARN_LINEAR)
    with pytest.raises(ModelSignatureError, match="not among"):
        load_model(folder / "deep" / ".." / ".." / "x.joblib", directory=folder, key=PUBLIC, allow=SKLEARN_LINEAR)
    (folder / "cache.txt").write_text("")
    with pytest.raises(ModelSignatureError, match="not signed"):
        load_model(inside, directory=folder, key=PUBLIC, allow=SKLEARN_LINEAR)
    load_model(inside, directory=folder, key=PUBLIC, ignore=["cache.txt"], allow=SKLEARN_LINEAR)


def test_a_pinned_file_is_loaded(path: Path) -> None:
    """By its SHA-256, however it is written, and beside a signature."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for same in (digest, digest.upper()):
        load_model(path, sha256=same, allow=SKLEARN_LINEAR)
    sign_model(path, KEY)
    load_model(path, sha256=digest, key=PUBLIC, allow=SKLEARN_LINEAR)
    other = hashlib.sha256(b"").hexdigest()
    for key in (None, PUBLIC):
        with pytest.raises(ModelSignatureError, match="SHA-256 is another"):
            load_model(path, sha256=other, key=key, allow=SKLEARN_LINEAR)


def test_a_file_that_nobody_knows_is_loaded_only_when_told_so(path: Path) -> None:
    """In so many words."""
    load_model(path, unverified=True, allow=SKLEARN_LINEAR)
    with pytest.raises(ConfigurationError, match="unverified=True"):
        load_model(path, allow=SKLEARN_LINEAR)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": PUBLIC, "unverified": True}, "unverified"),
        ({"sha256": "0" * 64, "unverified": True}, "unverified"),
        ({"unverified": "yes"}, "unverified"),
        ({"unverified": 1}, "unverified"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": b"0" * 64}, "sha256"),
        ({"sha256": "\u0660" * 64}, "sha256"),
        ({"unverified": True, "signature": "x.sig"}, "with key"),
        ({"unverified": True, "directory": "."}, "with key"),
        ({"unverified": True, "name": "iris"}, "with key"),
        ({"unverified": True, "ignore": ["x"]}, "with key"),
        ({"unverified": True, "max_size": 0}, "max_size"),
        ({"unverified": True, "max_size": True}, "max_size"),
        ({"unverified": True, "max_instructions": 0}, "max_instructions"),
        ({"unverified": True, "format": "torch"}, "format"),
        ({"unverified": True, "format": "onnx"}, "format"),
    ],
)
def test_settings_that_cannot_work(path: Path, options: dict[str, Any], said: str) -> None:
    """Are told before the model is loaded."""
    with pytest.raises(ConfigurationError, match=said):
        load_model(path, allow=SKLEARN_LINEAR, **options)


def test_what_a_file_holds_can_be_loaded(path: Path) -> None:
    """Bytes that were decrypted, pinned by their digest, when it is said what they are."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert load_model(content, sha256=digest, format="joblib", allow=SKLEARN_LINEAR).predict(ROWS) is not None
    with pytest.raises(ModelSignatureError, match="SHA-256"):
        load_model(content + b".", sha256=digest, format="joblib", allow=SKLEARN_LINEAR)
    with pytest.raises(ConfigurationError, match="say what the file is"):
        load_model(content, sha256=digest)
    with pytest.raises(ConfigurationError, match="bytes are pinned by sha256"):
        load_model(content, key=KEY.public_key(), format="joblib")


@pytest.mark.parametrize("place", [None, 5, "", "a\0b"])
def test_what_is_no_path(place: Any) -> None:
    """Is a setting that cannot work; a file that is not there is Python's own error."""
    with pytest.raises(ConfigurationError, match="path"):
        load_model(place, unverified=True)
    with pytest.raises(FileNotFoundError):
        load_model("not-there.pkl", unverified=True)


# What it is ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("suffix", [".joblib", ".pkl", "its own"])
def test_every_compression_of_joblib_is_read(compression: str, suffix: str, tmp_path: Path) -> None:
    """Under the names that joblib gives such files. Cut short, altered, or with something behind it, it is refused."""
    if compression == "lz4":
        pytest.importorskip("lz4")
    own = {"zlib": ".z", "gzip": ".gz"}.get(compression, f".{compression}")
    path = tmp_path / f"model{own if suffix == 'its own' else suffix}"
    content = joblib_bytes(MODEL, compress=(compression, 3))
    path.write_bytes(content)
    loaded = load_model(path, unverified=True, allow=SKLEARN_LINEAR)
    assert np.array_equal(loaded.predict(ROWS), MODEL.predict(ROWS))
    assert inspect_model(path).compression == compression
    altered = content[:40] + bytes([content[40] ^ 0xFF]) + bytes(20) + content[61:]
    for broken in (content[:-4], content[: len(content) // 2], content + b"x", content + content, altered):
        path.write_bytes(broken)
        with pytest.raises(ModelContentError, match="compressed file"):
            load_model(path, unverified=True, allow=SKLEARN_LINEAR)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_small_file_does_not_become_a_large_one(compression: str, tmp_path: Path) -> None:
    """``max_size`` bounds what comes out of a compressed file, and the file itself."""
    if compression == "lz4":
        pytest.importorskip("lz4")
    path = tmp_path / "model.joblib"
    content = joblib_bytes(np.zeros(1_000_000), compress=(compression, 9))
    path.write_bytes(content)
    with pytest.raises(ModelContentError, match="decompresses to more than max_size"):
        load_model(path, unverified=True, allow=NUMPY_ARRAYS, max_size=1_000_000)
    load_model(path, unverified=True, allow=NUMPY_ARRAYS)
    with pytest.raises(ModelContentError, match="more than max_size"):
        load_model(path, unverified=True, allow=NUMPY_ARRAYS, max_size=len(content) - 1)


def test_a_stream_may_be_longer_than_one_piece(tmp_path: Path) -> None:
    """Of a megabyte; and something may stand behind its end that begins a piece of its own."""
    values = np.frombuffer(np.random.default_rng(0).bytes(3_000_000), "u1")
    path = tmp_path / "model.joblib"
    content = joblib_bytes(values, compress=("zlib", 1))
    path.write_bytes(content)
    assert np.array_equal(load_model(path, unverified=True, allow=NUMPY_ARRAYS), values)
    path.write_bytes(content + bytes(2_000_000))
    with pytest.raises(ModelContentError, match="behind the end"):
        load_model(path, unverified=True, allow=NUMPY_ARRAYS)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.pkl", b"\x93NUMPY\x01\x00", "content is npy"),
        ("model.npy", b"\x80\x04N.", "content is pickle"),
        ("model.npy", b"N.", "content is pickle"),
        ("model.pkl", b"PK\x03\x04", "content is a zip file"),
        ("model.onnx", b"\x80\x04N.", "content is pickle"),
        ("model.safetensors", b"\x80\x04N.", "content is pickle"),
        ("model.skops", b"\x80\x04N.", "content is pickle"),
        ("model.npz", b"\x80\x04N.", "content is pickle"),
        ("model.pkl", b"\x08\x0a\x12\x00", "content is onnx"),
        ("model.pkl", struct.pack("<Q", 2) + b"{}", "content is safetensors"),
        ("model.pkl", b"\x89HDF\r\n\x1a\n", "no known format"),
        ("model.pkl", b"\x00", "no known format"),
        ("model.onnx", b"\x1f\x8b\x08", "content is pickle"),
        ("model.gz", b"\x80\x04N.", "compressed by nothing"),
        ("model.gz", b"\x78\x9c", "compressed by zlib"),
    ],
)
def test_content_and_name_agree(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    """What is one thing by its name and another by its content is refused."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelContentError, match=said):
        load_model(tmp_path / name, unverified=True, allow=SKLEARN_ESTIMATORS)


def test_a_format_is_told_where_the_name_says_nothing(path: Path, tmp_path: Path) -> None:
    """By ``format=``, with which the content must agree as well."""
    other = path.rename(tmp_path / "model")
    with pytest.raises(ConfigurationError, match="say what the file is"):
        load_model(other, unverified=True, allow=SKLEARN_LINEAR)
    for same in ("joblib", "pickle"):
        load_model(other, unverified=True, allow=SKLEARN_LINEAR, format=same)
    with pytest.raises(ModelContentError, match="content is pickle"):
        load_model(other, unverified=True, format="npy")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """So is one that is empty once it is decompressed."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"")
    with pytest.raises(ModelContentError, match="empty"):
        load_model(path, unverified=True)
    with joblib.numpy_pickle_utils._write_fileobject(str(path), compress=("gzip", 3)):
        pass
    with pytest.raises(ModelContentError, match="empty"):
        load_model(path, unverified=True)


# What is told --------------------------------------------------------------------------------------------------------


def test_a_refusal_says_what_is_not_allowed(path: Path) -> None:
    """All of it, how to allow it, and what that means."""
    with pytest.raises(ModelContentError) as refused:
        load_model(path, unverified=True, allow=NUMPY_ARRAYS)
    said = str(refused.value)
    assert "sklearn.linear_model._logistic.LogisticRegression" in said
    assert "('sklearn.linear_model._logistic', 'LogisticRegression')" in said
    assert "let the file run it" in said
    assert "numpy.dtype" not in said


def test_a_refusal_is_one_line_of_harmless_text(tmp_path: Path) -> None:
    """Whatever the file has put into the name of a global, and however many it names."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"(" + b"".join(b"cm%d\n\x1b[2J\xc3\xa4\n" % n for n in range(5_000)) + b"t.")
    with pytest.raises(ModelContentError) as refused:
        load_model(path, unverified=True)
    assert str(refused.value).replace("…", "").isascii()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 2_000


def test_loading_and_refusing_are_events(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the name of the file and the digest of its bytes."""
    caplog.set_level(logging.INFO, "mlguard.audit")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    load_model(path, unverified=True, allow=SKLEARN_LINEAR)
    with pytest.raises(ModelContentError):
        load_model(path, unverified=True)
    with pytest.raises(ModelSignatureError):
        load_model(path, sha256="0" * 64)
    path.write_bytes(b"")
    with pytest.raises(ModelContentError):
        load_model(path, unverified=True)
    assert caplog.messages == [
        f"model.loaded model=model.joblib digest={digest} format=pickle",
        f"model.refused model=model.joblib digest={digest} reason=ModelContentError",
        f"model.refused model=model.joblib digest={digest} reason=ModelSignatureError",
        "model.refused model=model.joblib digest=None reason=ModelContentError",
    ]


def test_a_class_that_will_not_have_its_state_is_a_refusal(tmp_path: Path) -> None:
    """As is one that is allowed and not installed."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"cfractions\nFraction\n(I1\nI0\ntR.")
    with pytest.raises(ModelContentError, match="ZeroDivisionError"):
        load_model(path, unverified=True, allow={("fractions", "Fraction")})
    path.write_bytes(b"cfractions\nFraction\n(I1\nI2\ntR.")
    assert load_model(path, unverified=True, allow={("fractions", "Fraction")}) == 0.5
    for module, name in ((b"not_installed_here", b"Model"), (b"fractions", b"Model")):
        path.write_bytes(b"c" + module + b"\n" + name + b"\n.")
        with pytest.raises(ModelContentError, match="not installed"):
            load_model(path, unverified=True, allow={(module.decode(), name.decode())})


def test_what_is_allowed_is_free_to_do_what_it_does(tmp_path: Path) -> None:
    """A class of one's own is made, filled and given its state as it likes."""
    path = tmp_path / "model.pkl"
    allow = {("collections", "OrderedDict"), ("collections", "deque"), ("argparse", "Namespace")}
    path.write_bytes(b"\x80\x02(ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00aNuccollections\ndeque\n)RNat.")
    assert [len(part) for part in load_model(path, unverified=True, allow=allow)] == [1, 1]
    path.write_bytes(b"\x80\x02cargparse\nNamespace\n)R}X\x01\x00\x00\x00aNsb.")
    assert load_model(path, unverified=True, allow=allow).a is None
    path.write_bytes(b"ccopy_reg\n_reconstructor\n(cargparse\nNamespace\nc__builtin__\nobject\nNtR.")
    load_model(path, unverified=True, allow=allow | NUMPY_ARRAYS)


def test_values_of_pythons_own_are_loaded(path: Path) -> None:
    """Without any global."""
    pickled = path.with_suffix(".pkl")
    values = [1, 2.5, None, True, b"x", "ä", (1, (2,)), {5: [], -1: 1 << 90, None: {}}, {1, "a"}, frozenset("ab")]
    for protocol in (0, 1, 2, 3, 4, 5):
        some = values if protocol > 3 else values[:4] + values[5:8] if protocol < 3 else values[:8]
        pickled.write_bytes(pickle.dumps(some, protocol))
        assert load_model(pickled, unverified=True) == some
    pickled.write_bytes(pickle.dumps(bytearray(b"abc"), 5))
    assert load_model(pickled, unverified=True) == b"abc"


def test_two_readings_that_differ_are_a_refusal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the first one were deceived, the second imports only what is allowed and was read before."""
    from mlguard.artifacts import loading
    from mlguard.artifacts._pickle_contents import PickleContents

    pickled = path.with_suffix(".pkl")
    pickled.write_bytes(b"cos\ngetcwd\n)R.")
    for names in ([], [("fractions", "Fraction")], [("os", "getcwd")], [("os", "getcwd")] * 2):
        monkeypatch.setattr(loading, "read_pickle", lambda *_, n=names, **__: PickleContents(n))
        monkeypatch.setattr(loading, "_check_names", lambda *_: None)
        allow = {("os", "getcwd")} if len(names) == 2 else set()
        with pytest.raises(ModelContentError, match=r"differ|not allowed"):
            load_model(pickled, unverified=True, allow=allow)


@pytest.mark.parametrize(("names", "steps"), [(1, 0), (0, 1), (0, -1)])
def test_two_readings_end_at_the_same_place(
    names: int, steps: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that names more, or calls more, is another one."""
    from mlguard.artifacts import loading
    from mlguard.artifacts._pickle_contents import PickleContents
    from mlguard.artifacts.pickle_globals import read_pickle

    pickled = path.with_suffix(".pkl")
    pickled.write_bytes(b"cos\ngetcwd\n)R.")

    def more(*arguments: Any, **options: Any) -> PickleContents:
        contents = read_pickle(*arguments, **options)
        contents.names += names * contents.names
        contents.steps = contents.steps * (1 + steps)
        return contents

    assert load_model(pickled, unverified=True, allow={("os", "getcwd")}) == str(Path.cwd())
    monkeypatch.setattr(loading, "read_pickle", more)
    with pytest.raises(ModelContentError, match="two readings of the file differ"):
        load_model(pickled, unverified=True, allow={("os", "getcwd")})


@pytest.mark.parametrize(("found", "said"), [("1.5.9", "1.5.9"), ("0.17", "0.17"), ("x", "x"), (None, "pip install")])
def test_an_old_joblib_is_told(found: str | None, said: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1.6 it reads arrays of objects past an allow-list. Files without its arrays need no joblib."""
    from importlib.metadata import PackageNotFoundError

    from mlguard.artifacts import _unpickling

    def version(_: str) -> str:
        if found is None:
            raise PackageNotFoundError
        return found

    monkeypatch.setattr(_unpickling, "version", version)
    with pytest.raises(ConfigurationError, match="pip install") as wrong:
        load_model(path, unverified=True, allow=SKLEARN_LINEAR)
    assert said in str(wrong.value)
    plain = path.with_suffix(".pkl")
    plain.write_bytes(b"N.")
    assert load_model(plain, unverified=True) is None


# Other formats -------------------------------------------------------------------------------------------------------


def test_safetensors_whose_header_begins_like_a_compressed_file_are_loaded(tmp_path: Path) -> None:
    """A length of 376 bytes is the beginning of zlib's."""
    numpy_ = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    saved = (numpy_.save({"a" * length: np.zeros(2), "b": np.ones(3)}) for length in range(1, 400))
    path.write_bytes(next(one for one in saved if one[:2] == b"\x78\x01"))
    assert load_model(path, unverified=True)["b"].tolist() == [1.0, 1.0, 1.0]
    assert inspect_model(path).compression is None


def test_safetensors_are_loaded(tmp_path: Path) -> None:
    """As a dict of arrays; cut short, or with a header that is none, they are refused."""
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    content = numpy.save({"weights": np.arange(6, dtype=np.float32).reshape(2, 3)})
    path.write_bytes(content)
    assert load_model(path, unverified=True)["weights"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert inspect_model(path).globals == ()
    header = json.dumps({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    for broken in (
        content[:-1],
        content + b"x",
        struct.pack("<Q", len(header)) + header + b"xx",
        struct.pack("<Q", 1 << 25) + b"{" + bytes(1 << 25),
    ):
        path.write_bytes(broken)
        with pytest.raises(ModelContentError, match="safetensors"):
            load_model(path, unverified=True)


def test_arrays_are_loaded(tmp_path: Path) -> None:
    """From ``.npy`` in either order; with more or fewer bytes than it says, or none, a file is refused."""
    path = tmp_path / "model.npy"
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.save(path, values)
    loaded = load_model(path, unverified=True)
    assert np.array_equal(loaded, values)
    loaded[0, 0] = 5
    good = path.read_bytes()
    head = b"\x93NUMPY\x01\x00"
    for broken in (
        good[:-1],
        good + b"x",
        head,
        head + b"\x02\x00{}",
        head + struct.pack("<H", 60) + b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }".ljust(59) + b"\n",
        head + struct.pack("<H", 60) + b"{'descr': '<f8', 'fortran_order': False, 'shape': (0,), }".ljust(59) + b"\n",
        b"\x93NUMPY\x09\x00" + good[8:],
        head
        + struct.pack("<H", 70)
        + b"{'descr': ('<f8', (2,)), 'fortran_order': False, 'shape': (1,), }".ljust(69)
        + b"\n"
        + bytes(16),
    ):
        path.write_bytes(broken)
        with pytest.raises(ModelContentError, match=r"\.npy file"):
            load_model(path, unverified=True)


@pytest.fixture
def onnx_model() -> Any:
    """Adds one to a number."""
    onnx = pytest.importorskip("onnx")
    number = onnx.TensorProto.FLOAT
    one = onnx.helper.make_tensor("one", number, [1], [1.0])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "one"], ["y"])],
        "add",
        [onnx.helper.make_tensor_value_info("x", number, [1])],
        [onnx.helper.make_tensor_value_info("y", number, [1])],
        [one],
    )
    return onnx.helper.make_model(graph)


def test_onnx_is_loaded(onnx_model: Any, tmp_path: Path) -> None:
    """If it keeps the rules of ONNX, in one file. What refers to other files, or holds unknown things, is refused."""
    import onnx

    path = tmp_path / "model.onnx"
    content = onnx_model.SerializeToString()
    path.write_bytes(content)
    assert load_model(path, unverified=True).graph.node[0].op_type == "Add"
    assert inspect_model(path).format == "onnx"
    unknown = content + b"\xfa\x3f\x05PK\x03\x04."
    for broken in (content[:-1], unknown):
        path.write_bytes(broken)
        with pytest.raises(ModelContentError, match="ONNX"):
            load_model(path, unverified=True)
    assert inspect_model(path).problems
    onnx_model.graph.node[0].op_type = "NotAnOperator"
    path.write_bytes(onnx_model.SerializeToString())
    with pytest.raises(ModelContentError, match="breaks a rule"):
        load_model(path, unverified=True)
    onnx_model.graph.node[0].op_type = "Add"
    tensor = onnx_model.graph.initializer[0]
    tensor.raw_data = b""
    onnx.external_data_helper.set_external_data(tensor, location="../../etc/passwd")
    path.write_bytes(onnx_model.SerializeToString())
    with pytest.raises(ModelContentError, match="other files"):
        load_model(path, unverified=True)


def test_skops_is_loaded(tmp_path: Path) -> None:
    """With its own list of trusted types, to which ``allow`` adds."""
    io_ = pytest.importorskip("skops.io")
    path = tmp_path / "model.skops"
    io_.dump(RandomForestClassifier(2, random_state=0).fit(ROWS, CLASSES), path)
    loaded = load_model(path, unverified=True, allow=SKLEARN_FORESTS)
    assert loaded.predict(ROWS).shape == CLASSES.shape
    assert inspect_model(path).globals == (("sklearn.tree._tree", "Tree"),)
    with pytest.raises(ModelContentError, match="not allowed"):
        load_model(path, unverified=True)
    io_.dump({"a": Path("x").suffix, "b": Own()}, path)
    name = (Own.__module__, "Own")
    assert inspect_model(path).globals == (name,)
    with pytest.raises(ModelContentError, match="not allowed") as refused:
        load_model(path, unverified=True)
    assert "Own" in str(refused.value)
    assert isinstance(load_model(path, unverified=True, allow={name})["b"], Own)


@pytest.mark.parametrize("member", ["left_child", "feature"])
def test_trees_in_skops_are_trees(member: str, tmp_path: Path) -> None:
    """Skops believes their nodes, as joblib does."""
    io_ = pytest.importorskip("skops.io")
    path = tmp_path / "model.skops"
    forest = RandomForestClassifier(2, random_state=0).fit(ROWS, CLASSES)
    io_.dump({"a": [(np.array([forest], object),)]}, path)
    load_model(path, unverified=True, allow=SKLEARN_FORESTS)
    tree = forest.estimators_[1].tree_
    state = tree.__getstate__()
    state["nodes"][member][0] = 1 << 30
    tree.__setstate__(state)
    io_.dump({"a": [(np.array([forest], object),)]}, path)
    with pytest.raises(ModelContentError, match="a node of a feature" if member == "feature" else "no tree"):
        load_model(path, unverified=True, allow=SKLEARN_FORESTS)
    with pytest.raises(ModelContentError, match="max_instructions"):
        load_model(path, unverified=True, allow=SKLEARN_FORESTS, max_instructions=100)


def test_encoders_in_skops_have_as_many_columns_as_categories(tmp_path: Path) -> None:
    """Skops trusts an encoder whatever its numbers are."""
    io_ = pytest.importorskip("skops.io")
    path = tmp_path / "model.skops"
    encoder = OneHotEncoder().fit([[1], [2], [3]])
    io_.dump(encoder, path)
    load_model(path, unverified=True)
    encoder._n_features_outs = [1]
    io_.dump(encoder, path)
    with pytest.raises(ModelContentError, match="categories"):
        load_model(path, unverified=True)


class Own:
    """A class that nobody trusts by default."""


def test_a_broken_skops_file_is_refused(tmp_path: Path) -> None:
    """Whatever its schema says, and nothing that it names was imported."""
    io_ = pytest.importorskip("skops.io")
    path = tmp_path / "model.skops"
    io_.dump(LinearRegression().fit(ROWS, CLASSES), path)
    good = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        schema = json.loads(archive.read("schema.json"))
    for changes in ({}, {"__loader__": "Nothing"}, {"__module__": "this", "__class__": "s"}, {"protocol": 99},
                    {"content": 5}):  # fmt: skip
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("schema.json", json.dumps({**schema, **changes}) if changes else "[" * 100_000)
        with pytest.raises(ModelContentError):
            load_model(path, unverified=True)
    assert "this" not in sys.modules
    with zipfile.ZipFile(io.BytesIO(good)) as archive, zipfile.ZipFile(path, "w") as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name) if name == "schema.json" else b"no array")
    with pytest.raises(ModelContentError, match="refuses what the file holds"):
        load_model(path, unverified=True)
    path.write_bytes(good[:-1])
    with pytest.raises(ModelContentError, match="zip"):
        load_model(path, unverified=True)
    assert inspect_model(path).problems


@pytest.mark.parametrize("found", ["0.12.0", "x"])
def test_an_old_skops_is_told(found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be made to run what is not trusted."""
    io_ = pytest.importorskip("skops.io")
    from mlguard.artifacts import _skops_files

    path = tmp_path / "model.skops"
    io_.dump([1], path)
    monkeypatch.setattr(_skops_files, "version", lambda _: found)
    with pytest.raises(ConfigurationError, match="pip install 'skops"):
        load_model(path, unverified=True)


@pytest.mark.parametrize(
    ("name", "content", "package"),
    [
        ("model.safetensors", struct.pack("<Q", 2) + b"{}", "safetensors"),
        ("model.onnx", b"\x08\x0a\x12\x00", "onnx"),
        ("model.skops", b"PK\x03\x04", "skops"),
        ("model.lz4", b"\x04\x22\x4d\x18", "lz4"),
    ],
)
def test_a_package_that_is_missing_is_named(
    name: str, content: bytes, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what installs it."""
    for module in [loaded for loaded in sys.modules if loaded.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"pip install .*{package}"):
        load_model(tmp_path / name, unverified=True)


def test_importing_mlguard_imports_none_of_them() -> None:
    """Whoever has no model pays nothing for it."""
    heavy = ("joblib", "sklearn", "skops", "onnx", "safetensors", "lz4", "google")
    code = f"import sys, mlguard; print([name for name in {heavy!r} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_the_sets_are_for_forests_of_any_size(tmp_path: Path) -> None:
    """Large arrays stay where the file was read to, can be written to, and hold on."""
    path = tmp_path / "model.joblib"
    values = np.arange(50_000.0)
    path.write_bytes(joblib_bytes([values, values[::-1].copy()]))
    first, second = load_model(path, unverified=True, allow=SKLEARN_FORESTS)
    path.unlink()
    first[0] = 7
    assert first.flags.writeable
    assert first[1:].tolist() == values[1:].tolist()
    assert np.array_equal(second, values[::-1])
