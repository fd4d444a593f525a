"""What usual queries look like: measured, saved, and read again."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlguard import ConfigurationError, QueryMonitor, QueryReference

random = np.random.default_rng(5)
USUAL = random.normal(size=(300, 3)) * [1.0, 1000.0, 1e-6] + [0.0, 5e5, 1.0]
SCORES = random.dirichlet(np.ones(4), 300)
REFERENCE = QueryMonitor.calibrate(USUAL, scores=SCORES)
MEMBERS = json.loads(REFERENCE._text())


def test_a_reference_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    """With its digest, which another reference does not have."""
    path = tmp_path / "queries.json"
    REFERENCE.save(path)
    read = QueryReference.load(path)
    assert read._text() == REFERENCE._text()
    assert read.digest == REFERENCE.digest
    other = QueryMonitor.calibrate(USUAL)
    assert other.digest != REFERENCE.digest
    assert other.margins is None
    other.save(path)
    assert QueryReference.load(path).digest == other.digest


def test_a_reference_holds_no_row() -> None:
    """Centres are of ten rows at least, and no extreme value is told."""
    scaled = (USUAL - REFERENCE.centre) / REFERENCE.scale
    assert 1 <= len(REFERENCE.centres) <= 300 // 20
    assert np.abs(REFERENCE.centres).max() < np.abs(scaled).max() / 1.2
    assert REFERENCE.columns == 3
    assert np.isin(scaled, REFERENCE.centres).sum() == 0


def test_a_reference_that_is_printed_tells_no_number_of_the_data() -> None:
    """As it might be in a log. It says what it is good for."""
    assert repr(REFERENCE) == "QueryReference(3 columns, near-duplicates, margins, distances)"
    assert str(QueryMonitor.calibrate(USUAL)) == "QueryReference(3 columns, near-duplicates, distances)"


def test_calibration_repeats() -> None:
    """The same data give the same numbers, but for what is drawn among equal scores."""
    again = QueryMonitor.calibrate(USUAL, scores=SCORES)
    assert np.array_equal(again.centres, REFERENCE.centres)
    assert again.reach == REFERENCE.reach
    assert again.limits == REFERENCE.limits


def test_limits_are_such_that_honest_callers_seldom_come_to_them() -> None:
    """The bound for likelihood ratios, or more where the data say so."""
    assert len(REFERENCE.limits) == 5
    least = math.log(1_000 / 0.05)
    assert all(least - 1e-9 <= limit < 2 * least for limit in REFERENCE.limits)


@pytest.mark.parametrize(
    ("x", "more"),
    [
        (np.repeat(USUAL[:99], 10, axis=0), {}),
        (USUAL[:99], {}),
        ([["a"]] * 200, {}),
        (3.0, {}),
        (np.ones((200, 0)), {}),
        (USUAL[:, 0], {}),
        (np.where(USUAL > 1e5, np.inf, USUAL), {}),
        (USUAL * 1e31, {}),
        (np.column_stack([USUAL, np.full(300, np.nan)]), {}),
        (USUAL, {"scores": SCORES[:-1]}),
        (USUAL, {"scores": np.full((300, 2), np.nan)}),
        (USUAL, {"scores": SCORES[:, :, np.newaxis]}),
        (USUAL, {"scores": SCORES[:, :0]}),
        (USUAL, {"scores": ["a"] * 300}),
        (USUAL, {"scores": 0.5}),
    ],
)
def test_data_that_cannot_be_measured_are_refused(x: Any, more: dict[str, Any]) -> None:
    """With a word on what is needed, and no value."""
    with pytest.raises(ConfigurationError, match=r"QueryMonitor.calibrate"):
        QueryMonitor.calibrate(x, **more)


def test_columns_that_are_constant_and_few_scores_are_no_trouble() -> None:
    """A column without a spread gets a small one; scores of few values say little, and alarm nobody."""
    flat = np.column_stack([USUAL, np.zeros(300), np.full(300, 7.0)])
    few = np.eye(2)[random.integers(0, 2, 300)]
    reference = QueryMonitor.calibrate(flat, scores=few)
    assert reference.scale[3:].tolist() == [0.01, 0.07]
    assert max(reference.limits) < 30
    pixels = QueryMonitor.calibrate(random.uniform(0, 1, (300, 2, 2)), same_units=True)
    assert np.ptp(pixels.scale) == 0
    assert pixels.columns == 4


def test_a_few_copies_in_the_data_do_not_blind() -> None:
    """Else one pair would make the reach as small as its noise, and steps larger than that no near-duplicates."""
    usual = random.normal(size=(400, 8))
    clean = QueryMonitor.calibrate(usual)
    for noise in (1e-9, 1e-3):
        with_copies = QueryMonitor.calibrate(np.concatenate([usual, usual[:3] + noise]))
        assert with_copies.reach > 0.5 * clean.reach
        assert with_copies.chance > 3 * clean.chance, "but they are counted"
    many = QueryMonitor.calibrate(np.concatenate([usual, usual + 1e-3]))
    assert many.reach < 0.1 * clean.reach, "whose data are like that is not to be suspected for it"


def test_data_in_one_lump_have_one_centre() -> None:
    """Where groups are too small, there is one."""
    lump = np.exp(random.normal(0, 4, (100, 60)))
    assert len(QueryMonitor.calibrate(lump).centres) >= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "mlguard query reference 2"),
        ("centre", []),
        ("centre", [0.0] * 4),
        ("centre", 3),
        ("centre", [0.0, "1", 2.0]),
        ("centre", [0.0, True, 2.0]),
        ("centre", [0.0, 1e31, 2.0]),
        ("scale", [1.0, 0.0, 1.0]),
        ("scale", [1.0, 1e-21, 1.0]),
        ("centres", []),
        ("centres", [[0.0] * 3] * 33),
        ("centres", [[0.0] * 2]),
        ("centres", {}),
        ("distances", [0.0] * 198),
        ("distances", [1.0] + [0.0] * 198),
        ("margins", [1.0] + [0.0] * 198),
        ("output_centre", "0"),
        ("reach", 0.0),
        ("reach", None),
        ("chance", 0.0),
        ("chance", 1),
        ("limits", [1.0] * 4),
        ("limits", [1.0, 1.0, 0.0, 1.0, 1.0]),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    """Every member is looked at. The text names the file."""
    path = tmp_path / "queries.json"
    path.write_text(json.dumps({**MEMBERS, name: value}))
    with pytest.raises(ConfigurationError, match=r"queries.json holds no reference of queries"):
        QueryReference.load(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"\x80\x04cos\nsystem\n",
        b"[" * 100_000,
        json.dumps({**MEMBERS, "more": 1}).encode(),
        json.dumps({**MEMBERS, "chance": math.nan}).encode(),
        json.dumps(MEMBERS).encode()[:-1] + b', "chance": 0.5}',
        json.dumps(MEMBERS).encode().replace(b'"chance": ', b'"chance": 1e999, "chance2": '),
    ],
)
def test_a_file_that_is_no_such_json_is_refused(tmp_path: Path, text: bytes) -> None:
    """Nothing in it is run, however it is made."""
    path = tmp_path / "queries.json"
    path.write_bytes(text)
    with pytest.raises(ConfigurationError, match="holds no reference"):
        QueryReference.load(path)


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, nothing, or one that is too large."""
    with pytest.raises(ConfigurationError):
        QueryReference.load(tmp_path)
    with pytest.raises(ConfigurationError, match="FileNotFoundError"):
        QueryReference.load(tmp_path / "none.json")
    monkeypatch.setattr("mlguard.monitoring.query_reference._MAX_FILE", 100)
    REFERENCE.save(tmp_path / "large.json")
    with pytest.raises(ConfigurationError, match="too large"):
        QueryReference.load(tmp_path / "large.json")


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(name=st.sampled_from(sorted(MEMBERS)), value=_json)
def test_whatever_a_member_is_the_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: Any
) -> None:
    """And never anything else."""
    path = tmp_path_factory.getbasetemp() / "queries.json"
    path.write_text(json.dumps({**MEMBERS, name: value}))
    with contextlib.suppress(ConfigurationError):
        assert QueryReference.load(path).columns == 3
