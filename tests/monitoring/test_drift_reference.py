"""References: learnt from data of every kind, and files that nobody of ours has written."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlguard.errors import ConfigurationError
from mlguard.monitoring import drift_reference
from mlguard.monitoring.drift import DriftMonitor
from mlguard.monitoring.drift_reference import DriftReference, outputs

RNG = np.random.default_rng(7)
ROWS = RNG.normal(size=(200, 3))
SCORES = RNG.dirichlet(np.ones(4), 150)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a file holds."""
    path = tmp_path_factory.mktemp("reference") / "drift.json"
    DriftMonitor.learn(ROWS, scores=SCORES, latency=RNG.exponential(size=120)).save(path)
    return json.loads(path.read_bytes())


@pytest.mark.parametrize(
    ("scores", "kind", "classes", "names"),
    [
        (None, None, 0, ["input"]),
        (SCORES, "probabilities", 4, ["input", "output", "classes"]),
        (RNG.normal(size=(100, 3)), "scores", 3, ["input", "output", "classes"]),
        (RNG.normal(size=100), "values", 0, ["input", "output"]),
        (RNG.normal(size=(100, 1)), "values", 0, ["input", "output"]),
    ],
)
def test_what_was_saved_is_loaded(scores: Any, kind: Any, classes: int, names: list[str], tmp_path: Path) -> None:
    """Every histogram comes back bit by bit, whatever the scores are."""
    rows = ROWS.copy()
    rows[0, 1] = np.nan
    learnt = DriftMonitor.learn(rows, scores=scores)
    learnt.save(tmp_path / "drift.json")
    loaded = DriftReference.load(tmp_path / "drift.json")
    assert (loaded.kind, loaded.classes, list(loaded.histograms), loaded.columns) == (kind, classes, names, 3)
    for of, one in learnt.histograms.items():
        other = loaded.histograms[of]
        assert one.edges.tobytes() == other.edges.tobytes()
        assert (one.counts == other.counts).all()
        assert one.missing == other.missing
    assert repr(loaded).startswith("DriftReference(3 columns, input")


def test_no_row_is_in_the_file(document: Any) -> None:
    """A file has as many numbers for a column as it has bins, however many rows there were."""
    assert all(len(column["edges"]) == 9 for column in document["histograms"]["input"]["columns"])


def test_images_are_columns_of_pixels() -> None:
    """Rows of any shape are laid flat."""
    assert DriftMonitor.learn(RNG.random((100, 4, 5))).columns == 20


def test_entropy_and_confidence() -> None:
    """A sure row has no entropy; an even one has that of its classes; scores are put through a softmax first."""
    for kind, sure, even in (("probabilities", [1.0, 0.0], [0.5, 0.5]), ("scores", [1e4, -1e4], [3.0, 3.0])):
        for several in ([sure, even], [sure], [even]):
            columns, best = outputs(np.array(several), kind)  # type: ignore[arg-type]  # one of them
            expected = [[0, 1] if one is sure else [np.log(2), 0.5] for one in several]
            assert columns == pytest.approx(np.array(expected), abs=1e-9)
            assert best is not None
            assert not best.any()


@given(arrays(np.float64, (1, 4), elements=st.floats(-50, 50)))
def test_one_row_is_judged_as_many_are(scores: Any) -> None:
    """The short way for one row gives what the long way gives."""
    one, best = outputs(scores, "scores")
    many, others = outputs(np.repeat(scores, 2, axis=0), "scores")
    assert one[0] == pytest.approx(many[0])
    assert best is not None
    assert others is not None
    assert best[0] == others[0]


@pytest.mark.parametrize(
    ("given_data", "named"),
    [
        ({"rows": RNG.normal(size=(99, 3))}, "at least 100"),
        ({"rows": RNG.normal(size=200)}, "shape"),
        ({"rows": np.empty((200, 0))}, "columns"),
        ({"rows": 3.0}, "at least 100"),
        ({"rows": [["a"]] * 200}, "numbers"),
        ({"rows": [[1], [2, 3]] * 100}, "numbers"),
        ({"rows": np.array([[object()]] * 200)}, "numbers"),
        ({"rows": np.where(ROWS > 2, np.inf, ROWS)}, "infinity"),
        ({"scores": np.full((100, 2), np.nan)}, "NaN"),
        ({"scores": np.ones((100, 1_001))}, "classes"),
        ({"scores": np.ones((100, 2, 2))}, "classes"),
        ({"latency": -np.ones(100)}, "latency"),
        ({"latency": np.ones((100, 2))}, "latency"),
        ({"bins": 3}, "bins"),
        ({"bins": 51}, "bins"),
    ],
)
def test_data_that_cannot_be_learnt_from_are_refused(given_data: dict[str, Any], named: str) -> None:
    """Each is named."""
    with pytest.raises(ConfigurationError, match=named):
        DriftMonitor.learn(**{"rows": ROWS, **given_data})


def _column(document: Any) -> Any:
    return document["histograms"]["input"]["columns"][0]


def _set(place: Callable[[Any], Any], name: Any, value: Any) -> Callable[[Any], None]:
    return lambda document: place(document).__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        _set(lambda d: d, "mlguard", "Features"),
        _set(lambda d: d, "version", 2),
        _set(lambda d: d, "version", True),
        _set(lambda d: d, "more", 1),
        _set(lambda d: d, "kind", "pickle"),
        _set(lambda d: d, "kind", None),
        _set(lambda d: d, "kind", "values"),
        _set(lambda d: d, "classes", 0),
        _set(lambda d: d, "classes", 1),
        _set(lambda d: d, "classes", 5),
        _set(lambda d: d, "classes", -1),
        _set(lambda d: d, "classes", 10**9),
        _set(lambda d: d, "histograms", {}),
        _set(lambda d: d["histograms"], "other", {"missing": False, "columns": []}),
        _set(lambda d: d["histograms"]["input"], "columns", []),
        _set(lambda d: d["histograms"]["output"], "columns", [{"edges": [0.5], "counts": [50, 50, 0]}]),
        _set(lambda d: d["histograms"]["latency"], "missing", True),
        _set(_column, "edges", []),
        _set(_column, "edges", [0.0]),
        _set(_column, "edges", [1.0] * 9),
        _set(_column, "edges", [*range(8, -1, -1)]),
        _set(_column, "edges", ["0"] * 9),
        _set(_column, "edges", [*range(8), 10**400]),
        _set(_column, "edges", [*range(8), 1e308 * 10]),
        _set(_column, "counts", [0] * 11),
        _set(_column, "counts", [20] * 10),
        _set(_column, "counts", [20] * 11),
        _set(_column, "counts", [-1, 41, *[20] * 8, 0]),
        _set(_column, "counts", [10**30, *[0] * 10]),
        _set(_column, "counts", [200, *[0] * 9, float("nan")]),
        _set(_column, "counts", [19, *[20] * 9, 1]),  # nothing may be missing
        lambda d: d["histograms"].pop("classes"),
        lambda d: d["histograms"].pop("output"),
    ],
)  # fmt: skip
def test_a_file_that_was_changed_is_refused(change: Callable[[Any], Any], document: Any, tmp_path: Path) -> None:
    """NaN, infinities, wrong lengths, negative counts, missing parts: a ConfigurationError, and nothing else."""
    changed = json.loads(json.dumps(document))
    change(changed)
    path = tmp_path / "drift.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(ConfigurationError, match=r"DriftReference\.save"):
        DriftReference.load(path)


def test_a_small_file_takes_no_large_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One column in many bins among many in few is refused before there is a table for them."""
    monkeypatch.setattr(drift_reference, "_MOST_CELLS", 100)
    few = {"edges": [0.0], "counts": [50, 50, 0]}
    many = {"edges": [*map(float, range(11))], "counts": [100, *[0] * 12]}
    path = tmp_path / "drift.json"
    for columns, fits in (([few] * 10, True), ([many, *[few] * 8], True), ([many, *[few] * 9], False)):
        histograms = {"input": {"missing": False, "columns": columns}}
        document = {"mlguard": "DriftReference", "version": 1, "kind": None, "classes": 0, "histograms": histograms}
        path.write_text(json.dumps(document))
        if fits:
            assert DriftReference.load(path).columns == len(columns)
        else:
            with pytest.raises(ConfigurationError, match="too many bins"):
                DriftReference.load(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"[" * 100_000, b'{"a":1,"a":2}', b"NaN", b"\xff", b"null"])
def test_what_is_no_such_file_is_refused(content: bytes, tmp_path: Path) -> None:
    """A pickle, a bomb, repeated members and half a file are refused."""
    path = tmp_path / "drift.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"DriftReference\.save"):
        DriftReference.load(path)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@settings(max_examples=40)
@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_any_json_is_refused_or_usable(content: Any) -> None:
    """No document makes anything but a ConfigurationError."""
    path = Path(os.environ.get("TMPDIR", "/tmp"), f"drift-{os.getpid()}.json")
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(ConfigurationError):
            DriftReference.load(path)
    finally:
        path.unlink()


def test_a_file_that_is_none_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a folder, a pipe and a giant are refused without waiting."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        DriftReference.load(tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="regular file"):
        DriftReference.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="regular file"):
        DriftReference.load(tmp_path / "pipe")
    monkeypatch.setattr(drift_reference, "_LARGEST", 10)
    (tmp_path / "large.json").write_bytes(b" " * 11)
    with pytest.raises(ConfigurationError, match="larger than"):
        DriftReference.load(tmp_path / "large.json")
    with pytest.raises(ConfigurationError, match="fewer bins"):
        DriftReference.learn(ROWS).save(tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()
