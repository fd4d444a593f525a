"""Files of keys: what they may hold, and how a change of them reaches a running service."""

import contextlib
import gc
import json
import logging
import multiprocessing
import os
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlguard import APIKey, APIKeyAuth, APIKeys, ConfigurationError, harden, require_api_key
from mlguard._lookout import Lookout, restart_all
from mlguard.auth._watched_file import WatchedFile
from mlguard.auth.api_keys import _configured_keys
from mlguard.auth.key_files import read_keys
from tests.asgi import call
from tests.servers import wait_until

ALICE, ALICE_SECRET = APIKey.generate("alice", scopes={"predict"})
BOB, BOB_SECRET = APIKey.generate("bob", limits=["600/minute"])
PLAIN = "Vq3tYxw0ZkLr8HcNfUe5Rj_bPa2GsT7dMi"


def entry(key: APIKey, **more: Any) -> dict[str, Any]:
    digest = f"sha256:{key.digest.hex()}"
    return {"id": key.id, "key_id": key.key_id, "digest": digest, "scopes": sorted(key.scopes), **more}


def as_json(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


def as_lines(*entries: Any) -> bytes:
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in entries)
    return b'{"keys": [\n' + lines.encode() + b"\n]}\n"


def as_toml(*entries: dict[str, Any]) -> bytes:
    tables = [
        "[[keys]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in one.items()) for one in entries
    ]
    return "\n".join(tables).encode()


def refusal(content: bytes, suffix: str = ".json") -> str:
    """Why it cannot be used. Nothing of it is in the text, nor in what led to it."""
    with pytest.raises(ConfigurationError) as refused:
        read_keys(content, suffix)
    assert PLAIN not in "".join(traceback.format_exception(refused.value))
    assert refused.value.__context__ is None
    return str(refused.value)


# What a file may hold ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spell", "suffix"), [(as_json, ".json"), (as_lines, ".json"), (as_toml, ".toml")])
def test_both_formats_say_the_same(spell: Callable[..., bytes], suffix: str) -> None:
    """Every member is read; comments and the like are for people."""
    more = {
        "limits": ["600/minute"], "disabled": True, "expires_at": "2027-01-31T00:00:00Z", "created": "2026-01-01",
        "not_before": "2026-01-31T00:00:00+01:00", "comment": "for the night job", "env": "test",
    }  # fmt: skip
    table = read_keys(spell(entry(ALICE), entry(BOB, **more)), suffix)
    assert len(table) == 2
    assert table.get(ALICE.digest) == ALICE
    bob = table.get(BOB.digest)
    assert bob is not None
    assert (bob.limits, bob.disabled, bob.key_id) == (("600/minute",), True, BOB.key_id)
    assert bob.expires_at is not None
    assert bob.not_before is not None
    assert [key.id for key in table] == ["alice", "bob"]


def test_toml_dates_are_dates() -> None:
    """TOML has a form of its own for them. One without a zone is refused."""
    line = as_toml(entry(ALICE)) + b"expires_at = 2027-01-31T00:00:00Z\n"
    key = read_keys(line, ".toml").get(ALICE.digest)
    assert key is not None
    assert key.expires_at is not None
    assert "time zone" in refusal(line.replace(b"Z\n", b"\n"), ".toml")
    assert "time zone" in refusal(line.replace(b"T00:00:00Z\n", b"\n"), ".toml")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"digest": PLAIN}, "mlguard keys new"),
        ({"digest": None}, "mlguard keys new"),
        ({"digest": f"sha256:{'A' * 64}"}, "mlguard keys new"),
        ({"secret": PLAIN}, "mlguard keys new"),
        ({"Secret": PLAIN}, "mlguard keys new"),
        ({PLAIN: 1}, "none of comment"),
        ({"expire_at": "2027-01-31T00:00:00Z"}, "none of comment"),
        ({"id": f"{PLAIN} {PLAIN}"}, "id is text"),
        ({"id": 5}, "id is text"),
        ({"key_id": 5}, "key_id is text"),
        ({"id": "sha256"}, "name of a hash"),
        ({"scopes": PLAIN}, "set of names"),
        ({"scopes": [PLAIN + "!"]}, "scope has"),
        ({"scopes": [5]}, "scope has"),
        ({"scopes": [[PLAIN]]}, "scope has"),
        ({"scopes": {PLAIN: 1}}, "set of names"),
        ({"limits": [PLAIN]}, "no limit"),
        ({"limits": "600/minute"}, "list of text"),
        ({"limits": [["600/minute"]]}, "list of text"),
        ({"disabled": "true"}, "True or False"),
        ({"expires_at": PLAIN}, "time zone"),
        ({"expires_at": 5}, "time zone"),
        ({"comment": "a\nb"}, "one line"),
        ({"comment": 5}, "one line"),
        ({"env": "prod"}, "env is"),
        ({"env": ["live"]}, "env is"),
    ],
)
@pytest.mark.parametrize("spell", [as_json, as_lines])
def test_entries_that_cannot_work(spell: Callable[..., bytes], changed: dict[str, Any], words: str) -> None:
    """The entry is named by its place and never quoted."""
    text = refusal(spell(entry(BOB), {**entry(ALICE), **changed}))
    assert text.startswith("entry 2: ")
    assert words in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"{}", "nothing beside"),
        (b"[]", "nothing beside"),
        (b"null", "nothing beside"),
        (b'{"keys": {}}', "nothing beside"),
        (b'{"keys": [], "more": 1}', "nothing beside"),
        (b'{"keys": []}', "no keys"),
        (b'{"keys": [\n]}', "no keys"),
        (b'{"keys": [\n\n]}', "no keys"),
        (b'{"keys": [1]}', "entry 1: is not made of members"),
        (b'{"keys": [\n1\n]}', "entry 1: is not made of members"),
        (as_json(entry(ALICE))[:-9], "no valid JSON, at line 1"),
        (as_lines(entry(ALICE), entry(BOB))[:-9], "no valid JSON, at line"),
        (b"\xff" + as_json(entry(ALICE)), "UTF-8"),
        (as_json(entry(ALICE)).decode().encode("utf-16"), "UTF-8"),
        (b'{"keys": ' + b"[" * 100_000, "no JSON that can be read"),
        (b'{"keys": ' + b"9" * 5_000 + b"}", "no JSON that can be read"),
        (as_json(entry(ALICE), entry(ALICE)), "entry 2 has the digest"),
        (as_lines(entry(ALICE), entry(ALICE)), "entry 2 has the digest"),
        (as_json(entry(ALICE), {**entry(BOB), "key_id": ALICE.key_id}), "entry 2 has the digest or the key_id"),
    ],
)
def test_json_that_cannot_work(content: bytes, words: str) -> None:
    """Broken, empty, of another shape, or with a key twice."""
    assert words in refusal(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"[[keys]]\n{PLAIN}".encode(), "no valid TOML, at"),
        (f'[[keys]]\nid = "{PLAIN}'.encode(), "no valid TOML, at"),
        (b"a = " + b"9" * 5_000, "no valid TOML, at an unknown place"),
        (b"a = " + b"[" * 100_000, "no valid TOML, at an unknown place"),
        (b"[keys]\n", "nothing beside"),
        (b"\xff", "UTF-8"),
        (as_toml(entry(ALICE)) + b"disabled = false\ndisabled = true\n", "no valid TOML, at line"),
    ],
)
def test_toml_that_cannot_work(content: bytes, words: str) -> None:
    """The same, with the place where there is one."""
    assert words in refusal(content, ".toml")


def test_a_member_twice_is_refused() -> None:
    """Which of two "disabled" holds is nothing to guess about, in either way of writing JSON."""
    for content in (as_json(entry(ALICE)), as_lines(entry(ALICE))):
        assert "member twice" in refusal(content.replace(b"}", b',"disabled":true,"disabled":false}', 1))
        assert "member twice" in refusal(content.replace(b'"digest"', b'"digest":"a","digest"'))
        for space in (b" ", b"\t", b"  ", b"\r"):
            hidden = b',"disabled"' + space + b':true,"disabled":false}'
            assert "member twice" in refusal(content.replace(b"}", hidden, 1))


def test_a_key_in_a_file_is_refused_wherever_it_stands() -> None:
    """Also in a comment: whoever reads the file has it."""
    content = b"# made today\n# " + BOB_SECRET.encode() + b"\n" + as_toml(entry(ALICE))
    text = refusal(content, ".toml")
    assert "line 2 holds a key itself" in text
    assert "mlguard keys new" in text
    assert BOB_SECRET not in text


@pytest.mark.parametrize("suffix", ["", ".yaml", ".toml.bak"])
def test_files_of_another_kind_are_refused(suffix: str, tmp_path: Path) -> None:
    """The ending says how to read it."""
    with pytest.raises(ConfigurationError, match=r"\.toml or \.json"):
        APIKeys.from_file(tmp_path / f"keys{suffix}")


entries_made = st.lists(
    st.builds(
        lambda number, plain: entry(
            APIKey(f"c-{number}", number.to_bytes(32, "big")), **({} if plain else {"env": "live"})
        ),
        st.integers(0, 400),
        st.booleans(),
    ),
    max_size=300,
    unique_by=lambda one: one["id"],
)


@settings(max_examples=30)
@given(entries_made, st.integers(0, 400))
def test_one_entry_a_line_means_what_json_means(entries: list[dict[str, Any]], broken_at: int) -> None:
    """The fast way and the general one give the same keys, also where some lines are not as they should be."""
    lines = [json.dumps(one, separators=(",", ":")) for one in entries]
    if broken_at < len(lines):
        lines[broken_at] = lines[broken_at].replace(",", ",\n ", 1)
    content = ('{"keys": [\n' + ",\n".join(lines) + "\n]}\n").encode()
    if not entries:
        assert "no keys" in refusal(content)
        return
    keys = read_keys(content, ".json")
    assert [key for key in keys] == [key for key in read_keys(as_json(*entries), ".json")]  # noqa: C416
    assert len(keys) == len(entries)


def test_a_line_without_its_comma_is_seen() -> None:
    """At the end of what is parsed at a time, too."""
    lines = [json.dumps(entry(APIKey("c", number.to_bytes(32, "big"))), separators=(",", ":")) for number in range(300)]
    for at in range(299):
        broken = [*lines[:at], lines[at] + "\n" + lines[at + 1], *lines[at + 2 :]]
        assert "no valid JSON" in refusal(('{"keys": [\n' + ",\n".join(broken) + "\n]}").encode())


def test_scopes_belong_to_their_keys() -> None:
    """Keys with many different sets of scopes, which a table keeps only once each."""
    made = [APIKey.generate("c", scopes={f"s{n % 3}", f"t{n % 2}"} if n % 4 else ())[0] for n in range(50)]
    table = read_keys(as_lines(*map(entry, made)), ".json")
    assert [*table] == made
    assert all(table.get(key.digest) == key for key in made)


# Reading it again ----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(as_lines(entry(ALICE)))
    return path


@pytest.fixture
def keys(path: Path) -> APIKeys:
    return APIKeys.from_file(path)


def live(keys: APIKeys) -> set[str]:
    """Whose keys hold."""
    secrets = {"alice": ALICE_SECRET, "bob": BOB_SECRET}
    return {name for name, secret in secrets.items() if keys.find(secret.encode()) is not None}


def test_a_change_takes_effect_by_itself(path: Path, keys: APIKeys) -> None:
    """Nobody has to ask for it, and the records are those of the new file."""
    assert live(keys) == {"alice"}
    before = keys.health.loaded_at
    replace(path, as_lines(entry(BOB), entry(ALICE, disabled=True)))
    wait_until(lambda: live(keys) == {"alice", "bob"})
    alice = keys.find(ALICE_SECRET.encode())
    assert alice is not None
    assert alice.disabled
    assert keys.health.ok
    assert keys.health.loaded_at > before


def replace(path: Path, content: bytes) -> None:
    """As ``mv`` does."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def write_in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def swap_links(path: Path, content: bytes) -> None:
    """As Kubernetes does: keys.json -> ..data/keys.json, ..data -> a folder of its own for each version."""
    version = path.parent / f"..{time.monotonic_ns()}"
    version.mkdir()
    (version / path.name).write_bytes(content)
    link = path.parent / "..data_tmp"
    link.symlink_to(version.name)
    link.replace(path.parent / "..data")
    if not path.is_symlink():
        path.unlink()
        path.symlink_to(Path("..data", path.name))


@pytest.mark.parametrize("change", [replace, write_in_place, swap_links])
def test_however_it_is_changed(change: Callable[[Path, bytes], None], path: Path, keys: APIKeys) -> None:
    """By a rename, in place, or by a link that leads elsewhere; several times, and with a content of the same size."""
    for names in ({"bob"}, {"alice", "bob"}, {"alice"}, {"bob"}):
        change(path, as_lines(*(entry(key) for key in (ALICE, BOB) if key.id in names)))
        keys.refresh()
        assert live(keys) == names


def test_a_second_change_that_looks_like_the_first(path: Path, keys: APIKeys) -> None:
    """File systems keep times coarsely: the same size, times and inode shortly after may still be another content."""
    first, second = as_lines(entry(ALICE)), as_lines(entry(ALICE, id="alicf"))
    status = path.stat()
    path.write_bytes(second)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(first) == len(second)
    wait_until(lambda: [key.id for key in keys] == ["alicf"])


def instead(path: Path, make: Callable[[], None]) -> None:
    path.unlink()
    make()


broken_files: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half written": lambda path: path.write_bytes(as_lines(entry(ALICE), entry(BOB))[:-60]),
    "a secret in it": lambda path: path.write_bytes(as_lines({"id": "bob", "digest": PLAIN})),
    "a folder": lambda path: instead(path, path.mkdir),
    "a pipe": lambda path: instead(path, lambda: os.mkfifo(path)),
    "a loop of links": lambda path: instead(path, lambda: path.symlink_to(path.name)),
    "writable by everybody": lambda path: path.chmod(0o606),
    "too large": lambda path: os.truncate(path, 300 * 1_048_576),
    "binary": lambda path: path.write_bytes(os.urandom(5_000)),
}


@pytest.mark.parametrize("how", broken_files)
def test_a_broken_file_keeps_the_keys(how: str, path: Path, keys: APIKeys, caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log says so, and the health, until it is mended. Nothing of the file is quoted."""
    broken_files[how](path)
    for _ in range(3):
        keys.refresh()
    assert live(keys) == {"alice"}
    health = keys.health
    assert not health.ok
    assert health.error
    assert str(path) not in health.error
    (line,) = [record for record in caplog.records if record.name == "mlguard"]
    assert line.levelno == logging.ERROR
    assert str(path) in line.getMessage()
    assert PLAIN not in line.getMessage()
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(as_lines(entry(ALICE), entry(BOB)))
    keys.refresh()
    assert live(keys) == {"alice", "bob"}
    assert keys.health.ok
    assert keys.health.error is None
    assert [record.getMessage() for record in caplog.records][-1].endswith("can be used again")


@pytest.mark.parametrize("how", [how for how in broken_files if how != "binary"])
def test_a_broken_file_stops_the_start(how: str, path: Path) -> None:
    """Before anything has been read, there is nothing to go on with."""
    broken_files[how](path)
    with pytest.raises(ConfigurationError, match="API keys cannot be read from") as refused:
        APIKeys.from_file(path)
    assert refused.value.__context__ is None
    assert PLAIN not in str(refused.value)


def test_the_same_file_again_is_no_change(path: Path, keys: APIKeys, caplog: pytest.LogCaptureFixture) -> None:
    """Gone for a moment and back as it was: the keys are not read again, and the log has both."""
    content, before = path.read_bytes(), keys.health.loaded_at
    path.unlink()
    keys.refresh()
    path.write_bytes(content)
    keys.refresh()
    assert keys.health.ok
    assert keys.health.loaded_at == before
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_development_does_not_ask_who_may_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounted folders of a laptop often let everybody write."""
    path.chmod(0o666)
    monkeypatch.setenv("MLGUARD_ENV", "development")
    assert live(APIKeys.from_file(path)) == {"alice"}


def test_what_is_being_written_is_left_alone(path: Path) -> None:
    """A thread that looks takes nothing that has changed since its last look."""
    file = WatchedFile(path, lambda content, _: content, what="test", production=True)
    path.write_bytes(b"half")
    file.look()
    path.write_bytes(b"half and half")
    file.look()
    assert file._value != b"half"
    assert file._health.ok
    file.look()
    assert file._value == b"half and half"


def test_a_change_while_it_is_read_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first and the last byte, too: at start-up an error, later left to the next look."""
    file = WatchedFile(path, lambda content, _: content, what="test", production=True)
    fstat = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        with path.open("ab") as writer:
            writer.write(b"\n")
        return status

    monkeypatch.setattr(os, "fstat", grow)
    before = file._value
    file.refresh()
    assert (file._value, file._health.ok) == (before, True)
    with pytest.raises(ConfigurationError, match="being written"):
        WatchedFile(path, lambda content, _: content, what="test", production=True)


def test_a_parser_that_crashes_keeps_the_value(path: Path) -> None:
    """Whatever it raises, without its text."""

    def read(content: bytes, breathe: Callable[[], None]) -> bytes:
        if b"bob" in content:
            raise RecursionError(PLAIN)
        return content

    file = WatchedFile(path, read, what="test", production=True)
    path.write_bytes(as_lines(entry(BOB)))
    file.refresh()
    assert file._health.error == "it cannot be parsed (RecursionError)"
    assert b"alice" in file.value


in_place_of_entries = st.text(max_size=100).map(lambda text: f'{{"keys": [\n{text}\n]}}'.encode("utf-8", "replace"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | in_place_of_entries)
@example(content=b'{"keys": [\n{"id": "a", "digest": "b"},\n]}')
@example(content=b'{"keys": [\n1],[2\n]}')
@example(content=b'{"keys": [\n[]\n]}')
@example(content=b'{"keys": [\n{},\n{}\n]}')
def test_any_bytes_keep_the_keys(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is written into the file, nothing is raised and the old keys hold."""
    for suffix in (".json", ".toml"):
        path = tmp_path_factory.mktemp("keys") / f"keys{suffix}"
        path.write_bytes((as_toml if suffix == ".toml" else as_lines)(entry(ALICE)))
        keys = APIKeys.from_file(path)
        path.write_bytes(content)
        keys.refresh()
        assert live(keys) == {"alice"}
        assert not keys.health.ok


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_keeps_the_keys(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Bytes cut out of a good file or put into it give either keys or an error of ours."""
    suffix = data.draw(st.sampled_from([".json", ".toml"]))
    good = (as_toml if suffix == ".toml" else as_lines)(entry(ALICE), entry(BOB, limits=["9/day"], env="live"))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(good))] * 2)))
    with contextlib.suppress(ConfigurationError):
        read_keys(good[:start] + data.draw(st.binary(max_size=4)) + good[end:], suffix)


# In a running service ------------------------------------------------------------------------------------------------


def test_no_request_fails_while_the_file_changes(path: Path, keys: APIKeys) -> None:
    """Alice's key is in every version. Requests in several threads and a writer that does not rest."""
    app = FastAPI()

    @app.get("/", dependencies=[Depends(APIKeyAuth(keys))])
    async def ready() -> None: ...

    header = [(b"x-api-key", ALICE_SECRET.encode())]
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            others = [entry(APIKey(f"c-{i}", (number * 1_000 + i).to_bytes(32, "big"))) for i in range(number % 7)]
            replace(path, as_lines(*others, entry(ALICE)))
            keys.refresh()

    writer = threading.Thread(target=write)
    writer.start()
    statuses: list[int] = []

    def ask() -> None:
        for _ in range(40):
            statuses.append(call(app, "/", method="GET", headers=header).status)  # noqa: PERF401  # one by one

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    stop.set()
    writer.join()
    assert statuses == [200] * 160
    assert keys.health.ok


def test_the_environment_names_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For from_file and for the ready-made guard; both variables at once are a mistake."""
    with pytest.raises(ConfigurationError, match="needs a path, or MLGUARD_API_KEYS_FILE"):
        APIKeys.from_file()
    monkeypatch.setenv("MLGUARD_API_KEYS_FILE", str(path))
    assert live(APIKeys.from_file()) == {"alice"}
    monkeypatch.setattr(require_api_key, "_keys", require_api_key._keys)  # undone afterwards: it is one object for all
    app = FastAPI()

    @app.get("/", dependencies=[Depends(require_api_key)])
    async def ready() -> None: ...

    harden(app)
    monkeypatch.setenv("MLGUARD_API_KEYS", PLAIN)
    with pytest.raises(ConfigurationError, match="both set"):
        require_api_key.check()
    monkeypatch.delenv("MLGUARD_API_KEYS_FILE")
    assert _configured_keys().find(PLAIN.encode()) is not None
    monkeypatch.setenv("MLGUARD_API_KEYS_FILE", str(path))
    monkeypatch.delenv("MLGUARD_API_KEYS")
    assert call(app, "/", method="GET", headers=[(b"x-api-key", ALICE_SECRET.encode())]).status == 200


def test_keys_from_code_are_always_healthy() -> None:
    """There is no file to differ from, and nothing to refresh."""
    keys = APIKeys([ALICE])
    keys.refresh()
    assert keys.health.ok


def test_a_relative_path_is_taken_from_where_the_service_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that changes its folder afterwards goes on watching the same file."""
    monkeypatch.chdir(path.parent)
    keys = APIKeys.from_file("keys.json")
    monkeypatch.chdir("/")
    replace(path, as_lines(entry(BOB)))
    keys.refresh()
    assert live(keys) == {"bob"}


def test_a_service_may_fork_after_its_first_request(path: Path, keys: APIKeys) -> None:
    """A child has no thread of its parent's. It looks for itself at its first use, and watches from then on."""
    assert live(keys) == {"alice"}
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child() -> None:
        there.recv()  # the file has changed by now
        there.send(live(keys))
        there.recv()
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: live(keys) == {"alice", "bob"})
        there.send(live(keys))

    process = context.Process(target=child)
    process.start()
    replace(path, as_lines(entry(BOB)))
    here.send(None)
    assert here.recv() == {"bob"}
    replace(path, as_lines(entry(ALICE), entry(BOB)))
    here.send(None)
    assert here.recv() == {"alice", "bob"}
    process.join(10)
    assert process.exitcode == 0


def test_a_child_begins_anew(path: Path, keys: APIKeys) -> None:
    """What runs in the child of a fork, here without one: the thread and the lock are the parent's."""
    assert live(keys) == {"alice"}
    replace(path, as_lines(entry(BOB)))
    restart_all()
    assert live(keys) == {"bob"}


def test_a_file_that_has_not_changed_for_long_is_not_read_again(path: Path) -> None:
    """The first use only looks at its times."""
    os.utime(path, (1_000_000_000, 1_000_000_000))
    reads = []

    def read(content: bytes, breathe: Callable[[], None]) -> bytes:
        reads.append(content)
        return content

    file = WatchedFile(path, read, what="test", production=True)
    assert file.value == path.read_bytes()
    assert len(reads) == 1


def test_nothing_is_left_of_keys_that_nobody_has(path: Path) -> None:
    """The thread ends with what it watches for."""
    before = {*threading.enumerate()}
    keys = APIKeys.from_file(path)
    assert live(keys) == {"alice"}
    (watcher,) = {*threading.enumerate()} - before
    gone = weakref.ref(keys)
    del keys
    gc.collect()
    watcher.join(10)
    assert not watcher.is_alive()
    assert gone() is None


def test_without_threads_each_use_looks(path: Path, keys: APIKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may start no further thread is slower, and up to date."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert live(keys) == {"alice"}
    replace(path, as_lines(entry(BOB)))
    assert live(keys) == {"bob"}


def test_a_look_that_fails_is_not_the_last(path: Path, keys: APIKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in the thread, it goes on."""
    failed = threading.Event()
    look = WatchedFile.look

    def once(file: WatchedFile[Any]) -> float:
        if not failed.is_set():
            failed.set()
            raise MemoryError
        return look(file)

    monkeypatch.setattr(WatchedFile, "look", once)
    assert live(keys) == {"alice"}
    assert failed.wait(10)
    replace(path, as_lines(entry(BOB)))
    wait_until(lambda: live(keys) == {"bob"})


def test_two_first_uses_start_one_thread(path: Path, keys: APIKeys) -> None:
    """Also when they come at the same moment."""
    before = {*threading.enumerate()}
    uses = [threading.Thread(target=live, args=(keys,)) for _ in range(8)]
    for use in uses:
        use.start()
    for use in uses:
        use.join()
    assert len({*threading.enumerate()} - before) == 1


def test_one_thread_watches_where_two_requests_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was waiting for the lock meanwhile finds that somebody else has started it."""
    path = tmp_path / "keys"
    path.write_bytes(b"one")
    path.chmod(0o600)
    watched = WatchedFile(path, lambda content, _: content, what="test", production=True)
    sent: list[Lookout] = []

    class Taken(contextlib.AbstractContextManager[None]):
        def __exit__(self, *exception: object) -> None: ...

        def __enter__(self) -> None:
            watched._lookout.is_out = True

    monkeypatch.setattr(watched, "_lock", Taken())
    monkeypatch.setattr(Lookout, "send", sent.append)
    assert watched.value == b"one"
    assert sent == []
