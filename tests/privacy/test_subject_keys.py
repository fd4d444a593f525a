"""Subject keys: what was sealed for a person opens until they are erased, and never after that, where it stands."""

import contextlib
import gc
import hashlib
import json
import secrets
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard import (
    ConfigurationError,
    SealedValueError,
    SubjectErasedError,
    SubjectKeyFile,
    SubjectKeys,
    SubjectKeyStore,
    UnavailableError,
)
from mlguard.privacy import subject_key_file
from mlguard.privacy.subject_key_file import KeyRecord

OLD, NEW = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "subjects.db"


@pytest.fixture
def keys(path: Path) -> SubjectKeys:
    return SubjectKeys(SubjectKeyFile(path), keys={"1": OLD})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SubjectKeys:
    return SubjectKeys(SubjectKeyFile(tmp_path_factory.mktemp("keys") / "subjects.db"), keys={"1": OLD})


# Sealing and erasing --------------------------------------------------------------------------------------------------


@given(TEXTS, st.sampled_from(["alice", "bob", "\N{SNOWMAN}"]), TEXTS.filter(bool))
def test_what_is_sealed_opens_where_it_was_sealed_for(
    shared: SubjectKeys, value: str, subject: str, context: str
) -> None:
    """Any text, for any subject; it is another text each time, and opens in no other context."""
    sealed = shared.seal(subject, value, context=context)
    assert shared.open(sealed, context=context) == value
    assert sealed != shared.seal(subject, value, context=context)
    with pytest.raises(SealedValueError, match="another context"):
        shared.open(sealed, context=context + " ")


@given(st.integers(0, 90), st.characters(codec="ascii"))
def test_what_was_altered_does_not_open(shared: SubjectKeys, at: int, letter: str) -> None:
    """In any place, by any letter."""
    sealed = shared.seal("alice", "value", context="log")
    at %= len(sealed)
    altered = sealed[:at] + letter + sealed[at + 1 :]
    if altered != sealed:
        with pytest.raises(SealedValueError):
            shared.open(altered, context="log")


@pytest.mark.parametrize(
    "text", ["", "s1..", "s1", None, 3, b"s1.", "s1." + "a" * 22 + ".", f"s1.{'a' * 22}.{'a' * 41}", "\N{SNOWMAN}"]
)
def test_what_is_no_sealed_text_does_not_open(shared: SubjectKeys, text: Any) -> None:
    """It is said to be none."""
    with pytest.raises(SealedValueError, match="no sealed text"):
        shared.open(text, context="log")


def test_a_text_does_not_become_another_subjects(shared: SubjectKeys) -> None:
    """The id in it is bound to the key that sealed it."""
    alice, bob = (shared.seal(name, "value", context="log") for name in ("alice", "bob"))
    with pytest.raises(SealedValueError, match="altered"):
        shared.open(bob[:26] + alice[26:], context="log")


def test_erased_is_erased(keys: SubjectKeys, path: Path) -> None:
    """In this object and in the next one; nobody else loses anything, and who comes back has a new key."""
    lines = [keys.seal(name, f"of {name}", context="log") for name in ("alice", "alice", "bob")]
    first = keys.key_id("alice")
    assert keys.erase("alice")
    assert not keys.erase("alice")
    for reader in (keys, SubjectKeys(SubjectKeyFile(path), keys={"1": OLD})):
        for line in lines[:2]:
            with pytest.raises(SubjectErasedError):
                reader.open(line, context="log")
        assert reader.open(lines[2], context="log") == "of bob"
        assert reader.key_id("alice") is None
    back = keys.seal("alice", "again", context="log")
    assert keys.open(back, context="log") == "again"
    assert keys.key_id("alice") not in {None, first}
    with pytest.raises(SubjectErasedError):
        keys.open(lines[0], context="log")


def test_a_chain_of_hashes_stays_valid_after_an_erasure(keys: SubjectKeys, tmp_path: Path) -> None:
    """The log keeps its bytes, and tells nothing about the erased any more."""
    log = tmp_path / "audit.jsonl"
    previous = ""
    for name in ("alice", "bob", "alice", "carol"):
        email = keys.seal(name, f"{name}@example.org", context="email")
        line = json.dumps({"event": "login", "email": email, "previous": previous})
        previous = hashlib.sha256(line.encode()).hexdigest()
        log.write_text((log.read_text() if log.exists() else "") + line + "\n")
    before = log.read_bytes()
    keys.erase("alice")
    assert log.read_bytes() == before

    previous, read = "", []
    for line in log.read_text().splitlines():
        record = json.loads(line)
        assert record["previous"] == previous
        previous = hashlib.sha256(line.encode()).hexdigest()
        try:
            read.append(keys.open(record["email"], context="email"))
        except SubjectErasedError:
            read.append("erased")
    assert read == ["erased", "bob@example.org", "erased", "carol@example.org"]


def test_an_erasure_is_an_event_that_names_nobody(keys: SubjectKeys, caplog: pytest.LogCaptureFixture) -> None:
    """The audit log learns which texts are gone, by the id that they carry."""
    caplog.set_level("INFO", "mlguard.audit")
    keys.seal("alice", "value", context="log")
    key_id = keys.key_id("alice")
    keys.erase("alice")
    assert [record.getMessage() for record in caplog.records] == [f"subject.erased key={key_id}"]


# The file -------------------------------------------------------------------------------------------------------------


def test_the_file_names_nobody_and_has_no_key_in_clear(keys: SubjectKeys, path: Path) -> None:
    """Only who has the wrapping key can find out whose record one is. It is for its owner's eyes only."""
    keys.seal("alice@example.org", "value", context="log")
    content = path.read_bytes()
    record = next(record for record in keys._store if record.subject)
    assert record.subject.encode() in content
    assert b"alice" not in content
    for digest in (hashlib.sha256, hashlib.sha1, hashlib.blake2b, hashlib.md5):
        assert digest(b"alice@example.org").hexdigest().encode() not in content
    assert keys._unwrapped(record) not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_of_an_erased_key_is_left_in_the_file(keys: SubjectKeys, path: Path) -> None:
    """Its place is overwritten, and no journal has it."""
    for number in range(50):
        keys.seal(f"subject {number}", "value", context="log")
    record = keys._store.of(keys._name("subject 7"))
    assert record is not None
    wrapped = record.wrapped.partition(".")[2].encode()
    assert wrapped in path.read_bytes()
    keys.erase("subject 7")
    assert all(wrapped not in file.read_bytes() for file in path.parent.iterdir())


def test_a_file_in_another_journal_mode_is_put_right(keys: SubjectKeys, path: Path) -> None:
    """A write-ahead log would keep what was removed from the file."""
    del keys
    gc.collect()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    again = SubjectKeys(SubjectKeyFile(path), keys={"1": OLD})
    again.seal("alice", "value", context="log")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_file_that_is_put_into_another_journal_mode_meanwhile(
    keys: SubjectKeys, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is called erased while a log of the other mode keeps it, and once it is gone, nothing is left."""
    monkeypatch.setattr(subject_key_file, "_WAIT", 0.01)
    keys = SubjectKeys(SubjectKeyFile(path), keys={"1": OLD})
    keys.seal("alice", "value", context="log")
    record = keys._record("alice")
    assert record is not None
    backup = sqlite3.connect(path)
    assert backup.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    backup.execute("SELECT count(*) FROM keys").fetchone()
    with pytest.raises(UnavailableError):
        keys.erase("alice")
    assert keys.key_id("alice") == record.key_id
    backup.close()
    assert keys.erase("alice")
    for file in path.parent.iterdir():
        assert record.wrapped.encode() not in file.read_bytes()


def test_the_same_subject_has_the_same_key_after_a_restart(keys: SubjectKeys, path: Path) -> None:
    """And under another secret nothing opens: that is said at once."""
    sealed = keys.seal("alice", "value", context="log")
    again = SubjectKeys(SubjectKeyFile(path), keys={"2": NEW, "1": OLD})
    assert again.open(sealed, context="log") == "value"
    assert again.key_id("alice") == keys.key_id("alice")
    for wrong in ({"1": NEW}, {"2": OLD}):
        with pytest.raises(ConfigurationError, match="none of them opens"):
            SubjectKeys(SubjectKeyFile(path), keys=wrong)


def test_records_that_were_exchanged_do_not_open(keys: SubjectKeys) -> None:
    """Who can write to the file cannot give one subject the key of another, nor the id of a text."""
    for name in ("alice", "bob"):
        keys.seal(name, "value", context="log")
    alice, bob = (keys._record(name) for name in ("alice", "bob"))
    assert alice is not None
    assert bob is not None
    for wrapped in (bob.wrapped, "1.", "1.AAAA", "1.!", "", "2." + alice.wrapped[2:]):
        keys._store.replace([alice._replace(wrapped=wrapped)])
        with pytest.raises(ConfigurationError, match="none of them opens"):
            keys.seal("alice", "value", context="log")


def test_a_file_without_the_key_that_names_are_made_with_is_refused(keys: SubjectKeys, path: Path) -> None:
    """Else nobody in it could be found, and an erasure would say that there was nothing to erase."""
    keys.seal("alice", "value", context="log")
    keys._store.remove("")
    with pytest.raises(ConfigurationError, match="first record is missing"):
        SubjectKeys(SubjectKeyFile(path), keys={"1": OLD})


# Rotation -------------------------------------------------------------------------------------------------------------


def test_after_a_rotation_older_copies_of_the_file_open_nothing(keys: SubjectKeys, path: Path, tmp_path: Path) -> None:
    """As long as the old secret is there, a backup from before an erasure can read. Without it, it cannot."""
    alice, bob = (keys.seal(name, name, context="log") for name in ("alice", "bob"))
    backup = tmp_path / "backup.db"
    shutil.copy(path, backup)
    keys.erase("alice")
    assert SubjectKeys(SubjectKeyFile(backup), keys={"1": OLD}).open(alice, context="log") == "alice"

    both = SubjectKeys(SubjectKeyFile(path), keys={"2": NEW, "1": OLD})
    assert (both.rewrap(), both.rewrap()) == (2, 0)  # bob's, and the one that makes pseudonyms
    rotated = SubjectKeys(SubjectKeyFile(path), keys={"2": NEW})
    assert rotated.open(bob, context="log") == "bob"
    assert rotated.key_id("bob") == bob.split(".")[1]
    with pytest.raises(ConfigurationError, match="none of them opens"):
        SubjectKeys(SubjectKeyFile(backup), keys={"2": NEW})


def test_many_keys_are_wrapped_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps, each one whole."""
    monkeypatch.setattr("mlguard.privacy.subject_keys._AT_ONCE", 4)
    monkeypatch.setattr(subject_key_file, "_PAGE", 3)
    keys = SubjectKeys(SubjectKeyFile(path), keys={"1": OLD})
    texts = [keys.seal(f"subject {number}", str(number), context="log") for number in range(10)]
    assert SubjectKeys(SubjectKeyFile(path), keys={"2": NEW, "1": OLD}).rewrap() == 11
    rotated = SubjectKeys(SubjectKeyFile(path), keys={"2": NEW})
    assert [rotated.open(text, context="log") for text in texts] == [str(number) for number in range(10)]


def test_who_is_erased_while_keys_are_wrapped_anew_stays_erased(keys: SubjectKeys, path: Path) -> None:
    """And who has come back with a new key since keeps that one."""
    lines = {name: keys.seal(name, name, context="log") for name in ("alice", "bob")}

    class Meanwhile(SubjectKeyFile):
        def replace(self, records: Iterable[KeyRecord]) -> int:
            records = list(records)
            for name in lines:
                keys.erase(name)
            lines["bob again"] = keys.seal("bob", "again", context="log")
            return super().replace(records)

    assert SubjectKeys(Meanwhile(path), keys={"2": NEW, "1": OLD}).rewrap() == 1
    both = SubjectKeys(SubjectKeyFile(path), keys={"2": NEW, "1": OLD})
    for name in ("alice", "bob"):
        with pytest.raises(SubjectErasedError):
            both.open(lines[name], context="log")
    assert both.open(lines["bob again"], context="log") == "again"


# Races and crashes ----------------------------------------------------------------------------------------------------

PROCESS = """
import sys
from mlguard import SubjectKeyFile, SubjectKeys

print("ready", flush=True)
sys.stdin.readline()
keys = SubjectKeys(SubjectKeyFile(sys.argv[1]), keys={"1": sys.argv[2]})
"""
SEALS = PROCESS + "for n in range(30): print(keys.seal(f'subject {n}', str(n), context='log'))"
DIES = (
    PROCESS
    + """
for n in range(10_000):
    print("sealed", keys.seal(f"subject {n}", str(n), context="log"), flush=True)
    if n % 2:
        keys.erase(f"subject {n - 1}")
        print("erased", n - 1, flush=True)
"""
)
FORKS = """
import os, sys
from mlguard import SubjectKeyFile, SubjectKeys

keys = SubjectKeys(SubjectKeyFile(sys.argv[1]), keys={"1": sys.argv[2]})
sealed = keys.seal("alice", "value", context="log")
child = os.fork()
if not child:
    keys.seal("bob", "value", context="log")
    sys.exit(keys.open(sealed, context="log") != "value")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert keys.key_id("bob") and keys.erase("alice")
"""


@contextlib.contextmanager
def started(program: str, path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that has been told to begin, and is killed at the end."""
    command = [sys.executable, "-c", program, str(path), OLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            yield worker
        finally:
            worker.kill()


def go(*workers: "subprocess.Popen[str]") -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()


def test_processes_that_begin_at_once_share_file_and_keys(path: Path) -> None:
    """Both make the file and the same subjects' keys at the same time: each subject has one, and all texts open."""
    with started(SEALS, path) as first, started(SEALS, path) as second:
        go(first, second)
        texts = [worker.communicate(timeout=60)[0].split() for worker in (first, second)]
    keys = SubjectKeys(SubjectKeyFile(path), keys={"1": OLD})
    for number, (one, other) in enumerate(zip(*texts, strict=True)):
        assert keys.open(one, context="log") == keys.open(other, context="log") == str(number)
        assert one.split(".")[1] == other.split(".")[1] == keys.key_id(f"subject {number}")


def test_after_a_crash_sealed_is_sealed_and_erased_is_erased(path: Path) -> None:
    """Whatever a process that is killed has said that it did."""
    with started(DIES, path) as worker:
        go(worker)
        assert worker.stdout is not None
        lines = [worker.stdout.readline().split() for _ in range(61)]
    keys = SubjectKeys(SubjectKeyFile(path), keys={"1": OLD})
    texts = [line[1] for line in lines if line[0] == "sealed"]
    erased = {int(line[1]) for line in lines if line[0] == "erased"}
    assert len(erased) == 20
    for number, text in enumerate(texts):
        if number in erased:
            with pytest.raises(SubjectErasedError):
                keys.open(text, context="log")
        elif number != len(texts) - 1:  # which it may have been erasing, and not yet said so
            assert keys.open(text, context="log") == str(number)
    keys.seal("alice", "value", context="log")


def test_a_fork_makes_a_connection_of_its_own(path: Path) -> None:
    """What SQLite holds for the parent is neither used nor closed in the child."""
    subprocess.run([sys.executable, "-W", "error::ResourceWarning", "-c", FORKS, str(path), OLD], check=True)
    file = SubjectKeyFile(path)
    parents = file._connection
    file._process = -1
    assert file.of("nobody") is None
    assert file._inherited == [parents]
    assert file._connection is not parents
    assert parents is not None
    subject_key_file._close(parents, -1)
    parents.execute("SELECT 1")
    file._process, file._connection = -1, None
    assert file.of("nobody") is None


def test_who_is_erased_while_others_write_is_erased(keys: SubjectKeys) -> None:
    """Whatever was sealed meanwhile opens or is erased, and after the last erasure none of it opens."""
    done = threading.Event()
    texts: list[str] = []

    def write() -> None:
        while not done.is_set():
            texts.append(keys.seal("alice", "value", context="log"))

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        keys.erase("alice")
        for text in texts[-3:]:
            with contextlib.suppress(SubjectErasedError):
                assert keys.open(text, context="log") == "value"
    done.set()
    for thread in threads:
        thread.join()
    keys.erase("alice")
    assert texts
    for text in texts:
        with pytest.raises(SubjectErasedError):
            keys.open(text, context="log")


def test_a_file_that_cannot_be_used_now_is_a_503(
    keys: SubjectKeys, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sealed in clear and nothing is called erased while another holds the file."""
    monkeypatch.setattr(subject_key_file, "_WAIT", 0.01)
    sealed = keys.seal("alice", "value", context="log")
    waiting = SubjectKeys(SubjectKeyFile(path), keys={"1": OLD})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    calls: list[Callable[[], object]] = [
        lambda: waiting.seal("alice", "value", context="log"),
        lambda: waiting.open(sealed, context="log"),
        lambda: waiting.erase("alice"),
        waiting.rewrap,
    ]
    for call in calls:
        with pytest.raises(UnavailableError) as refused:
            call()
        assert refused.value.status_code == 503
    other.execute("ROLLBACK")
    other.close()
    assert keys.open(sealed, context="log") == "value"


def test_a_change_that_fails_half_way_is_undone(path: Path) -> None:
    """Nothing of it is there, and the file can be written again."""
    file = SubjectKeyFile(path)
    file.add(KeyRecord("alice", "1", "x"))
    with pytest.raises(UnavailableError):
        file.add(KeyRecord("bob", "1", "y"))  # the id of another key
    assert list(file) == [KeyRecord("alice", "1", "x")]
    assert file.add(KeyRecord("bob", "2", "y")).key_id == "2"


INTRUDES = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")
"""


def test_a_second_object_keeps_others_out_of_a_change_of_the_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening and closing the file anywhere in a process takes away the locks that all of the process has on it."""
    monkeypatch.setattr(subject_key_file, "_WAIT", 0.01)
    file = SubjectKeyFile(path)

    def change(_: sqlite3.Connection) -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr(SubjectKeyFile, "_set_up", lambda _: None)  # which would wait for this change
        SubjectKeyFile(path)
        return subprocess.run([sys.executable, "-c", INTRUDES, str(path)], check=False, capture_output=True, text=True)

    assert "database is locked" in file._write(change).stderr


def test_who_is_erased_from_the_file_of_now_does_not_open_from_the_one_of_before(keys: SubjectKeys, path: Path) -> None:
    """A backup takes its place, and somebody is erased from that: who has the old file open reads nothing more."""
    sealed = keys.seal("alice", "value", context="log")
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.replace(path)
    assert SubjectKeys(SubjectKeyFile(path), keys={"1": OLD}).erase("alice")
    calls: list[Callable[[], object]] = [
        lambda: keys.open(sealed, context="log"),
        lambda: keys.seal("bob", "value", context="log"),
        lambda: keys.erase("alice"),
    ]
    for call in calls:
        with pytest.raises(UnavailableError) as refused:
            call()
        assert "start this process anew" in refused.value.reason
    path.unlink()
    with pytest.raises(UnavailableError):
        keys.open(sealed, context="log")


# Settings -------------------------------------------------------------------------------------------------------------


def test_everybody_may_not_write(keys: SubjectKeys, path: Path) -> None:
    """Who can write to the file can put back what was removed from it."""
    path.chmod(0o602)
    with pytest.raises(ConfigurationError, match="chmod o-w"):
        SubjectKeyFile(path)
    path.chmod(0o644)
    SubjectKeyFile(path)


def test_files_that_are_no_key_files_are_refused(tmp_path: Path) -> None:
    """Text, another database, a folder, a folder that is not there. Nothing in them is changed."""
    text, database = tmp_path / "text", tmp_path / "other.db"
    text.write_text("not a database, but long enough to be read as the head of one, if anybody tried to" * 20)
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE orders (id)")
    connection.close()
    for place in (text, database, tmp_path, tmp_path / "none" / "subjects.db"):
        before = place.read_bytes() if place.is_file() else None
        with pytest.raises(ConfigurationError, match=r"SubjectKeyFile\(path\)"):
            SubjectKeyFile(place)
        assert before == (place.read_bytes() if place.is_file() else None)


def test_settings_that_cannot_work_are_refused(path: Path) -> None:
    """They say which they are, and repeat no secret."""
    with pytest.raises(ConfigurationError, match=r"SubjectKeys\(store\)"):
        SubjectKeys(str(path), keys={"1": OLD})  # type: ignore[arg-type]
    for keys in ({}, {"1": "changeme"}, {"a.b": OLD}, {"1": OLD, "2": OLD}):
        with pytest.raises(ConfigurationError, match=r"SubjectKeys\(keys=") as refused:
            SubjectKeys(SubjectKeyFile(path), keys=keys)
        assert OLD not in str(refused.value)


@pytest.mark.parametrize(
    ("subject", "value", "context", "error"),
    [
        ("", "a", "b", ValueError),
        ("a", "b", "", ValueError),
        ("a\ud800", "a", "b", ValueError),
        ("a", "jane\ud800", "b", ValueError),
        (1, "a", "b", TypeError),
        ("a", b"b", "b", TypeError),
        ("a", "b", None, TypeError),
    ],
)
def test_what_cannot_be_sealed_is_refused(
    shared: SubjectKeys, subject: Any, value: Any, context: Any, error: type[Exception]
) -> None:
    """Nobody, no context, no text. Nothing is repeated."""
    with pytest.raises(error) as refused:
        shared.seal(subject, value, context=context)
    assert "jane" not in str(refused.value)


def test_nothing_secret_is_in_the_repr(keys: SubjectKeys, path: Path) -> None:
    """Ids and the name of the file are."""
    assert repr(keys) == "SubjectKeys(SubjectKeyFile('subjects.db'), keys=['1'])"
    assert isinstance(SubjectKeyFile(path), SubjectKeyStore)


def test_the_file_is_let_go_of(path: Path) -> None:
    """With the object."""
    file = SubjectKeyFile(path)
    connection = file._connection
    assert connection is not None
    del file
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
