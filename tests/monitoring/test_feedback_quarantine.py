"""Rows in quarantine: kept in bounds, for their owner alone, until an operator or time has spoken."""

import collections
import itertools
import json
import logging
import sqlite3
import stat
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlguard import ConfigurationError, FeedbackQuarantine, UnavailableError
from mlguard.monitoring.quarantined_rows import Held, bounded
from tests.clock import Clock

ALICE, BOB = ("api-key", "", "alice"), ("jwt", "https://issuer.test", "bob")


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


@pytest.fixture
def file(tmp_path: Path, clock: Clock) -> FeedbackQuarantine:
    return made(tmp_path / "feedback.db", clock=clock)


def made(path: Path, **settings: Any) -> FeedbackQuarantine:
    quarantine = FeedbackQuarantine(path, **settings)
    quarantine.bind(shape=(2,), dtype="float64", labels=["a", "b"])
    return quarantine


def held(who: tuple[str, str, str] = ALICE, label: str = "a", value: float = 1.5, reason: str = "model") -> Held:
    return Held(who, reason, label, np.array([value, 2.0]))


def test_what_is_kept_comes_back(file: FeedbackQuarantine) -> None:
    """Who, when, why, the label, and the numbers to the last bit; what is missing is missing."""
    assert file.add([held(value=0.1 + 0.2), held(BOB, "b", float("nan"), "far")]) == 2
    first, second = file.rows()
    assert (first.caller, first.method, first.label, first.reason, first.state) == (
        "alice",
        "api-key",
        "a",
        "model",
        "held",
    )
    assert first.at.timestamp() == 1_000_000.0
    assert first.features.tolist() == [0.1 + 0.2, 2.0]
    assert (second.issuer, second.caller) == ("https://issuer.test", "bob")
    assert np.isnan(second.features[0])
    assert file.row(first.id) == first
    assert file.row(99) is None
    assert "0.3" not in repr(first)


def test_whole_numbers_and_tensors_come_back(tmp_path: Path) -> None:
    """No digit of an integer is lost."""
    quarantine = FeedbackQuarantine(tmp_path / "feedback.db")
    quarantine.bind(shape=(1, 2), dtype="int64", labels=[0, 1])
    quarantine.add([Held(ALICE, "far", 1, np.array([[2**63 - 1, -5]]))])
    quarantine.release([row.id for row in quarantine.rows()])
    with quarantine.released() as released:
        assert released.x.tolist() == [[[2**63 - 1, -5]]]
        assert released.x.dtype == np.int64
        assert released.y.tolist() == [1]


def test_released_rows_are_fetched_once(file: FeedbackQuarantine) -> None:
    """Those that wait stay; a job that fails gets the same again."""
    file.add([held(), held(label="b", value=7.0), held()])
    assert file.release([2]) == 1
    assert file.release([2, 99]) == 0
    with pytest.raises(RuntimeError), file.released() as released:
        raise RuntimeError
    with file.released() as released:
        assert released.x.tolist() == [[7.0, 2.0]]
        assert released.y.tolist() == ["b"]
        assert file.count("released") == 1
    assert (file.count("released"), file.count()) == (0, 2)
    with file.released() as released:
        assert released.x.shape == (0, 2)
        assert released.y.shape == (0,)


def test_rejected_rows_are_gone_from_the_file(file: FeedbackQuarantine) -> None:
    """They are overwritten; what was released cannot be rejected any more."""
    file.add([Held(("name", "", "someone-rejected"), "model", "a", np.array([123456.75, 2.0])), held()])
    assert b"someone-rejected" in file.path.read_bytes()
    file.release([2])
    assert file.reject([1, 2]) == 1
    assert b"someone-rejected" not in file.path.read_bytes()
    assert b"123456.75" not in file.path.read_bytes()
    assert file.count("released") == 1


def test_decisions_are_events(file: FeedbackQuarantine, caplog: pytest.LogCaptureFixture) -> None:
    """One for each caller and decision, with how many rows, and without a name that a function gave."""
    file.add([held(), held(), held(BOB), held(("name", "", "192.0.2.7"))])
    with caplog.at_level(logging.INFO, "mlguard.audit"):
        file.release([1, 2, 3])
        file.reject([4])
    assert [(vars(record)["event"], vars(record)["facts"]) for record in caplog.records] == [
        ("feedback.released", {"method": "api-key", "caller": "alice", "rows": 2}),
        ("feedback.released", {"method": "jwt", "issuer": "https://issuer.test", "caller": "bob", "rows": 1}),
        ("feedback.rejected", {"method": "name", "rows": 1}),
    ]


def test_a_release_can_be_taken_back(file: FeedbackQuarantine, caplog: pytest.LogCaptureFixture) -> None:
    """As long as it was not fetched: the rows wait again, and are in no training data."""
    file.add([held(), held(BOB)])
    file.release([1, 2])
    with caplog.at_level(logging.INFO, "mlguard.audit"):
        assert file.withdraw([1, 99]) == 1
        assert file.withdraw([1]) == 0
    assert [vars(record)["event"] for record in caplog.records] == ["feedback.withdrawn"]
    with file.released() as released:
        assert len(released.x) == 1
    assert [row.caller for row in file.rows()] == ["alice"]


def test_what_is_withdrawn_from_a_job_that_runs_is_not_lost(file: FeedbackQuarantine) -> None:
    """It waits for the operator, who would else look for it in vain; the rest is fetched."""
    file.add([held(), held(BOB)])
    file.release([1, 2])
    with file.released() as released:
        assert len(released.x) == 2
        file.withdraw([1])
    assert [row.caller for row in file.rows()] == ["alice"]
    assert file.count("released") == 0


def test_who_has_a_long_name_is_found_and_forgotten(file: FeedbackQuarantine) -> None:
    """By the whole name, of which the file has a part, and by one that cannot be written as it is."""
    for name in ("x" * 500, "\ud800"):
        file.add([held(("api-key", "", bounded(name)))])
        assert len(file.rows(caller=name)) == 1
        assert file.forget(name) == 1
        assert file.count() == 0


def test_many_are_decided_at_once(file: FeedbackQuarantine) -> None:
    """More than one statement can name."""
    file.add([held((f"{number}", "", "")) for number in range(1_200)])
    assert file.release(range(1, 1_201)) == 1_200


@pytest.mark.parametrize("ids", [["1"], [True], [1.0], [-1], [2**63]])
def test_ids_are_whole_numbers(file: FeedbackQuarantine, ids: Any) -> None:
    """Nothing else is a row's number."""
    with pytest.raises(ConfigurationError, match="whole number"):
        file.release(ids)


def test_a_caller_fills_its_own_share_only(tmp_path: Path) -> None:
    """Who floods the quarantine does not push out what others have sent, nor take their room."""
    quarantine = made(tmp_path / "feedback.db", max_rows=50, max_rows_per_caller=5)
    assert quarantine.add([held()] * 8) == 5
    assert quarantine.add([held(), held(BOB)]) == 1
    assert quarantine.add([held((f"{number}", "", "")) for number in range(99)]) == 44
    assert quarantine.count() == 50
    assert len(quarantine.rows(caller="alice")) == 5


def test_callers_differ_by_method_and_issuer(tmp_path: Path) -> None:
    """The key alice and the token alice have a share each."""
    quarantine = made(tmp_path / "feedback.db", max_rows=50, max_rows_per_caller=1)
    assert (
        quarantine.add([held(("api-key", "", "alice")), held(("jwt", "x", "alice")), held(("jwt", "y", "alice"))]) == 3
    )


def test_many_write_at_once(tmp_path: Path) -> None:
    """The bounds hold for threads, and for objects of their own as processes have them."""
    path = tmp_path / "feedback.db"
    files = [made(path, max_rows=100, max_rows_per_caller=30) for _ in range(4)]
    kept: list[int] = []
    threads = [
        threading.Thread(target=lambda one=one: kept.extend(one.add([held()]) for _ in range(20))) for one in files
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(kept) == files[0].count() == 30


def test_the_file_does_not_outgrow_its_bound(tmp_path: Path) -> None:
    """What does not fit is not kept, what was kept stays."""
    quarantine = made(tmp_path / "feedback.db", max_bytes=65_536)
    large = Held(ALICE, "model", "a", np.random.default_rng(0).random(2_000))
    assert quarantine.add([large]) == 1
    with pytest.raises(UnavailableError):
        quarantine.add([large] * 9)
    assert quarantine.count() == 1
    assert quarantine.path.stat().st_size <= 65_536


def test_an_operator_can_act_on_a_full_file(tmp_path: Path) -> None:
    """Whoever fills it keeps nobody from releasing what others have sent, though that makes the file larger."""
    quarantine = made(tmp_path / "feedback.db", max_bytes=65_536)
    callers = itertools.count()
    for at_once in (100, 10, 1):  # to the last byte, without a step for each
        adding = (quarantine.add([held((f"{next(callers)}", "", "")) for _ in range(at_once)]) for _ in range(999))
        with pytest.raises(UnavailableError) as full:
            collections.deque(adding, maxlen=0)
    assert "SQLITE_FULL" in str(full.value.reason)
    rows = quarantine.count()
    assert quarantine.release(row.id for row in quarantine.rows(limit=9_999)) == rows
    assert quarantine.count("released") == rows


def test_rows_go_when_their_time_is_over(file: FeedbackQuarantine, clock: Clock) -> None:
    """Released or not, and whatever the object that looks at them would keep."""
    file.add([held(), held()])
    file.release([1])
    clock.now += timedelta(days=29).total_seconds()
    file.add([held(BOB)])
    clock.now += timedelta(days=1).total_seconds()
    assert (len(file.rows()), file.row(2), file.count("released")) == (1, None, 0)
    assert b"alice" in file.path.read_bytes()
    assert file.purge() == 2
    assert b"alice" not in file.path.read_bytes()
    clock.now += timedelta(days=30).total_seconds()
    with file.released():
        pass
    assert b"bob" not in file.path.read_bytes()


def test_a_caller_can_be_forgotten(file: FeedbackQuarantine) -> None:
    """All of their rows, released or not, and nobody else's."""
    file.add([held(), held(), held(BOB)])
    file.release([1])
    assert file.forget("alice") == 2
    assert b"alice" not in file.path.read_bytes()
    assert file.count() == 1


def test_pages_follow_each_other(file: FeedbackQuarantine) -> None:
    """In the order in which they came."""
    file.add([held(value=float(number)) for number in range(5)])
    first = file.rows(limit=3)
    assert [row.id for row in (*first, *file.rows(after=first[-1].id))] == [1, 2, 3, 4, 5]


def test_the_file_is_for_its_owner(file: FeedbackQuarantine, tmp_path: Path) -> None:
    """Also what SQLite makes beside it; one that others can read is not used."""
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.path.chmod(0o640)
    with pytest.raises(ConfigurationError, match=f"{file.path}.*chmod 600"):
        FeedbackQuarantine(file.path)


@pytest.mark.parametrize("content", [b"no database" * 200, None])
def test_other_files_are_not_used(tmp_path: Path, content: bytes | None) -> None:
    """Neither text nor somebody else's database."""
    path = tmp_path / "other"
    if content is not None:
        path.write_bytes(content)
    else:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE held (x)")
        other.close()
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"FeedbackQuarantine\(path\): .*other"):
        FeedbackQuarantine(path)


def test_folders_and_places_that_are_not_there(tmp_path: Path) -> None:
    """A folder is none, and none is made."""
    (tmp_path / "folder").mkdir(mode=0o700)
    for path in (tmp_path / "folder", tmp_path / "none" / "feedback.db"):
        with pytest.raises(ConfigurationError, match=r"FeedbackQuarantine\(path\)") as wrong:
            FeedbackQuarantine(path)
        assert str(path) in str(wrong.value)


def test_a_file_has_rows_of_one_form(tmp_path: Path) -> None:
    """A service with other features or labels needs another one, or an empty one."""
    quarantine = made(tmp_path / "feedback.db")
    quarantine.add([held()])
    quarantine.bind(shape=(2,), dtype="float64", labels=["a", "b"])
    with pytest.raises(ConfigurationError, match="another shape"):
        quarantine.bind(shape=(3,), dtype="float64", labels=["a", "b"])
    quarantine.reject([1])
    quarantine.bind(shape=(3,), dtype="float64", labels=[0, 1])
    assert FeedbackQuarantine(tmp_path / "feedback.db").count() == 0


def test_a_service_that_starts_is_told_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    """By SQLite's name for it, not by a 503: there is nobody yet to answer."""
    path = tmp_path / "feedback.db"
    path.write_bytes(b"no database" * 200)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="SQLITE_NOTADB"):
        FeedbackQuarantine(path)
    path.unlink()
    quarantine = made(path)
    with sqlite3.connect(path) as damaged:
        damaged.execute("DROP TABLE form")
    damaged.close()
    with pytest.raises(ConfigurationError, match="SQLITE_ERROR"):
        quarantine.bind(shape=(2,), dtype="float64", labels=["a", "b"])


def test_a_file_that_has_gone_is_not_made_anew(file: FeedbackQuarantine) -> None:
    """Others could read what SQLite makes."""
    file.path.unlink()
    with pytest.raises(UnavailableError):
        file.add([held()])
    assert not file.path.exists()


def test_an_error_half_way_changes_nothing(file: FeedbackQuarantine) -> None:
    """A step is done whole or not."""
    with pytest.raises(UnavailableError):
        file.add([held(), Held(ALICE, None, "a", np.zeros(2))])  # type: ignore[arg-type]  # NOT NULL says no
    assert file.count() == 0


def test_nothing_in_the_file_is_run(file: FeedbackQuarantine) -> None:
    """It holds numbers and texts."""
    file.add([held()])
    with sqlite3.connect(file.path) as there:
        columns = there.execute("SELECT label, features FROM held").fetchone()
    there.close()
    assert [json.loads(column) for column in columns] == ["a", [1.5, 2.0]]


def test_a_new_file_has_released_nothing(tmp_path: Path) -> None:
    """A job that comes before the service finds no rows."""
    with FeedbackQuarantine(tmp_path / "feedback.db").released() as released:
        assert len(released.x) == len(released.y) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"max_rows": 0}, {"max_rows": True}, {"max_rows": 10, "max_rows_per_caller": 11}, {"max_rows_per_caller": 0},
        {"max_bytes": 1}, {"keep": 30}, {"keep": timedelta(0)},
    ],
)  # fmt: skip
def test_settings_that_cannot_work(tmp_path: Path, settings: dict[str, Any]) -> None:
    """They are refused when the object is built, and make no file."""
    with pytest.raises(ConfigurationError, match="FeedbackQuarantine"):
        FeedbackQuarantine(tmp_path / "feedback.db", **settings)
    assert not (tmp_path / "feedback.db").exists()


def test_its_name_is_in_its_repr(file: FeedbackQuarantine) -> None:
    """And no more of its path."""
    assert repr(file) == "FeedbackQuarantine('feedback.db')"
