"""Files that are flipped, cut, stretched and mixed: loaded or refused, and what is loaded can be used."""

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from mlguard import SKLEARN_ESTIMATORS, ModelContentError, inspect_model, load_model
from tests.artifacts.estimators import CLASSES, NAMES, ROWS, joblib_bytes, saved

FOREST = RandomForestClassifier(2, max_depth=3, random_state=0)
FILES = [*saved(FOREST.fit(ROWS, CLASSES)), *saved(FOREST.fit(ROWS, NAMES))]
FILES += [joblib_bytes(FOREST, compress=(method, 1)) for method in ("zlib", "gzip", "bz2", "xz", "lzma")]

EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.integers(1, 40)),
        st.tuples(st.just("repeat"), st.floats(0, 1), st.integers(1, 40)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("end"), st.floats(0, 1), st.none()),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[tuple[str, float, Any]]) -> bytes:
    """The content with these changes, one after the other."""
    changed = bytearray(content)
    for kind, where, what in edits:
        at = int(where * (len(changed) - 1)) if changed else 0
        if kind == "set":
            changed[at : at + 1] = bytes([what])
        elif kind == "flip" and changed:
            changed[at] ^= 1 << what
        elif kind == "cut":
            del changed[at : at + what]
        elif kind == "repeat":
            changed[at:at] = changed[at : at + what]
        elif kind == "insert":
            changed[at:at] = what
        elif kind == "end":
            del changed[at:]
    return bytes(changed)


def load(path: Path, content: bytes) -> Any:
    """What is in the file, or None."""
    path.write_bytes(content)
    try:
        return load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS, max_size=1 << 22, max_instructions=50_000)
    except ModelContentError:
        return None


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.sampled_from(FILES), edits=EDITS)
def test_a_forest_that_was_altered_is_a_forest_or_refused(
    content: bytes, edits: list[tuple[str, float, Any]], tmp_path: Path
) -> None:
    """No other exception; and a forest that was loaded predicts, or says why not, and takes nothing down with it."""
    path = tmp_path / "model.joblib"
    changed = edited(content, edits)
    model = load(path, changed)
    try:
        inspect_model(path, max_size=1 << 22, max_instructions=50_000)
    except ModelContentError:
        assert model is None
    if isinstance(model, RandomForestClassifier):
        model.n_jobs = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(Exception):  # scikit-learn's own
                model.predict(ROWS)
                model.decision_path(ROWS)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(
    [b"(", b"c", b"sklearn.tree._tree\nTree\n", b"numpy\ndtype\n", b"N", b"]", b"}", b")", b"R", b"b", b"\x81", b"\x93",
     b"\x94", b"h\x00", b"\x86", b"t", b"u", b"e", b"\x8c\x05numpy", b"\x8c\x05dtype", b"K\x01", b"\x88", b"\x89", b"0",
     b"2", b"1", b"o", b"Q", b"\x8f", b"\x90", b"\x91", b"\x92", b"s", b"d", b"l", b"a", b"\x85", b"\x87", b".",
     b"\x95\x04\x00\x00\x00\x00\x00\x00\x00", b"\x96\x02\x00\x00\x00\x00\x00\x00\x00ab", b"\x97", b"\x98"]
)).map(b"".join)))  # fmt: skip
def test_any_instructions_are_read_or_refused(content: bytes, tmp_path: Path) -> None:
    """Whatever they do with one another, no other exception comes of it."""
    load(tmp_path / "model.pkl", content)
    load(tmp_path / "model.pkl", b"\x80\x04" + content + b".")


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "onnx", "skops"])
def test_other_files_that_were_altered_are_loaded_or_refused(suffix: str, tmp_path: Path) -> None:
    """No other exception comes of them either."""
    if suffix in ("safetensors", "onnx", "skops"):
        pytest.importorskip(suffix)
    content = _example(suffix, tmp_path)
    path = tmp_path / f"model.{suffix}"
    assert load(path, content) is not None

    @settings(max_examples=100, database=None)
    @given(edits=EDITS)
    def alter(edits: list[tuple[str, float, Any]]) -> None:
        load(path, edited(content, edits))

    alter()


def _example(suffix: str, folder: Path) -> bytes:
    stream = io.BytesIO()
    if suffix == "npy":
        np.save(stream, ROWS)
    elif suffix == "npz":
        np.savez_compressed(stream, rows=ROWS, classes=CLASSES)
    elif suffix == "safetensors":
        import safetensors.numpy

        return safetensors.numpy.save({"rows": ROWS, "classes": CLASSES})
    elif suffix == "onnx":
        import onnx

        values = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        nodes = [onnx.helper.make_node("Abs", ["x"], ["y"])]
        return bytes(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [values], [result])).SerializeToString())
    else:
        import skops.io  # type: ignore[import-untyped]

        skops.io.dump(FOREST, folder / "example.skops")
        return (folder / "example.skops").read_bytes()
    return stream.getvalue()
