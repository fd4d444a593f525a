"""Rules saved beside a model and loaded back."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlguard.errors import ConfigurationError
from mlguard.inputs.features import Features

GUARD = Features(
    columns=["age", "sex", "grade"],
    low=[0, 0, -1.5],
    high=[0.1 + 0.2, 9, 5e-324],
    max_rows=7,
    field="rows",
    dtype=np.float32,
    missing=["age"],
    categories={"sex": ["f", "m\u00e4nnlich", ""], "grade": [2.5, 1]},
    out_of_range="clip",
    publish_bounds=False,
)


def everything(guard: Features) -> Any:
    rules = guard._rules
    return (
        [rules.names, rules.columns, rules.max_rows, rules.dtype, rules.missing, rules.clips, rules.publishes_bounds],
        [rules.low.dtype, rules.low.tobytes(), rules.high.tobytes(), guard._formats.field],
        [guard._formats.names, guard.shape],
        {column: allowed.values for column, allowed in rules.categories.items()},
    )


def test_a_saved_guard_is_the_same_when_loaded(tmp_path: Path) -> None:
    """Every setting comes back, and bounds to the last bit."""
    GUARD.save(tmp_path / "rules.json")
    loaded = Features.load(str(tmp_path / "rules.json"))
    assert everything(loaded) == everything(GUARD)
    assert loaded.names == ("age", "sex", "grade")
    assert loaded._rules.matrix([[None, "m\u00e4nnlich", 1]]).tolist()[0][1:] == [1, 1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.floats(-1e308, 1e308), st.floats(-1e308, 1e308)).map(sorted), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)).map(sorted), min_size=1, max_size=3),
)
def test_bounds_survive_to_the_last_bit(tmp_path: Path, floats: Any, whole: Any) -> None:
    """Doubles and integers of 64 bits are written so that the same ones are read."""
    for bounds, dtype in ((floats, np.float64), (whole, np.uint64)):
        low, high = zip(*bounds, strict=True)
        guard = Features(columns=len(bounds), low=low, high=high, max_rows=1, dtype=dtype)
        guard.save(tmp_path / "rules.json")
        assert everything(Features.load(tmp_path / "rules.json")) == everything(guard)


# Files that are wrong -----------------------------------------------------------------------------------------------


def load(folder: Path, content: Any) -> Features:
    path = folder / "rules.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return Features.load(path)


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    GUARD.save(tmp_path / "rules.json")
    return json.loads((tmp_path / "rules.json").read_text())


WRONG: dict[str, list[Any]] = {
    "mlguard": ["Model", 1],
    "version": [0, 2, "1", 1.0, True, None],
    "columns": [2, 3.0, "abc", {"a": 1, "b": 2, "c": 3}, ["a", "b"], ["a", "b", 1], None],
    "low": [True, "0", 100, [0, 0], [0, 0, "0"], [0, 0, True], [0, 0, None], {}, [[0, 0, 0]], [9, 9, 9]],
    "high": [[1, 1, 1e39], [1, 1, 10**400], "111", [-1, 0, 0]],
    "max_rows": [0, 1.0, "1", True],
    "field": ["", 1, "a[", None],
    "dtype": ["O", "<f4", "f4", "object", 1, None, ["float32"], "int8"],
    "missing": [True, ["age"], [3], [-1], [0, 0], 0, [True], [0.0]],
    "categories": [
        *[{}, [{}], [1], [{"column": 1}], [{"column": 3, "allowed": ["a"]}], [{"column": 1, "allowed": ["a"], "x": 1}]],
        *[[{"column": 1, "allowed": value}] for value in ([], "ab", ["a", 1], ["a", "a"], [True], [None], ["\ud800"])],
        [{"column": 1, "allowed": ["a"]}] * 2,
    ],
    "out_of_range": ["ignore"],
    "publish_bounds": [1],
    "more": [1],
    "__class__": ["x"],
}


@pytest.mark.parametrize(
    ("member", "value"), [(name, value) for name, wrong in WRONG.items() for value in wrong], ids=repr
)
def test_a_wrong_member_is_refused(tmp_path: Path, saved: Any, member: str, value: Any) -> None:
    """A member of another type, or one that does not belong there, loads nothing, and the error names the file."""
    with pytest.raises(ConfigurationError, match=r"rules\.json"):
        load(tmp_path, {**saved, member: value})


def test_a_missing_member_is_refused(tmp_path: Path, saved: Any) -> None:
    """There are no defaults in a file: what is not there was not meant."""
    for member in saved:
        with pytest.raises(ConfigurationError, match=member):
            load(tmp_path, {name: value for name, value in saved.items() if name != member})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\x80\x04]",  # the beginning of a pickle
        b'{"mlguard": "Features", "mlguard": "Features"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"low": [NaN]}',
        b'{"low": [Infinity]}',
        b" " * ((1 << 24) + 1),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Anything but a file that ``save`` has written is an error that names the file, and nothing is run."""
    with pytest.raises(ConfigurationError, match=r"rules\.json"):
        load(tmp_path, content)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """No file, and a folder in its place, stop the start-up."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            Features.load(path)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_no_bound_is_infinite(tmp_path: Path, saved: Any, number: bytes) -> None:
    """A bound that is no number would let everything through."""
    text = json.dumps({**saved, "high": [1, 1, "here"]}).encode()
    with pytest.raises(ConfigurationError, match=r"rules\.json"):
        load(tmp_path, text.replace(b'"here"', number))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_or_still_means_something(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes that were changed by chance or by somebody crash nothing."""
    GUARD.save(tmp_path / "rules.json")
    content = bytearray((tmp_path / "rules.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=3))
    try:
        guard = load(tmp_path, bytes(content))
    except ConfigurationError:
        return
    assert np.isfinite(guard._rules.high).all()


# Writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there are no modes")
def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Whoever reads meanwhile has the old file whole; the new one keeps its mode, and what a link leads to changes."""
    path, link = tmp_path / "rules.json", tmp_path / "link.json"
    GUARD.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    path.chmod(0o600)
    link.symlink_to(path)
    with path.open() as old:
        Features(columns=1, low=0, high=1, max_rows=1).save(link)
        assert json.load(old)["field"] == "rows"
    assert link.is_symlink()
    assert Features.load(path).columns == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {file.name for file in tmp_path.iterdir()} == {"link.json", "rules.json"}


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """An error while writing leaves what was there, and no temporary file."""
    (tmp_path / "rules.json").mkdir()
    with pytest.raises(OSError, match=r"rules\.json"):
        GUARD.save(tmp_path / "rules.json")
    assert [file.name for file in tmp_path.iterdir()] == ["rules.json"]
    with pytest.raises(OSError, match="nowhere"):
        GUARD.save(tmp_path / "nowhere" / "rules.json")


def test_one_bound_of_very_many_columns_is_one_number(tmp_path: Path) -> None:
    """Rules of large pictures can be read back, and take no megabytes."""
    guard = Features(shape=(1_024, 1_024, 3), low=-0.0, high=0.1 + 0.2, max_rows=1)
    guard.save(tmp_path / "rules.json")
    assert (tmp_path / "rules.json").stat().st_size < 1_000
    assert everything(Features.load(tmp_path / "rules.json")) == everything(guard)


def test_a_zero_keeps_its_sign(tmp_path: Path) -> None:
    """Bounds that are equal and not the same to the last bit are written one by one."""
    guard = Features(columns=2, low=[0.0, -0.0], high=1, max_rows=1)
    guard.save(tmp_path / "rules.json")
    assert everything(Features.load(tmp_path / "rules.json")) == everything(guard)


def test_a_file_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    """What is there stays, and who saves learns it now and not at the next start."""
    columns = 800_000
    guard = Features(columns=columns, low=[0.0] + [-1 / 3] * (columns - 1), high=1, max_rows=1)
    with pytest.raises(ConfigurationError, match="larger"):
        guard.save(tmp_path / "rules.json")
    assert not [*tmp_path.iterdir()]
