"""``mlguard lockdown``, on a real Redis that services use."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

import mlguard.store
from mlguard import Lockdown, NotAuthenticatedError, RedisStore, TokenIssuer
from mlguard.__main__ import main
from mlguard.monitoring import _lockdown_state as states
from tests.asgi import make_scope
from tests.redis_server import RedisServer, redis_server

Run = Callable[..., tuple[int, str, str]]
SIGNING = "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQs"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """A server that is empty, which the environment names."""
    server.command("FLUSHALL")
    monkeypatch.setenv("MLGUARD_STORE_URL", server.url)
    return server


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``mlguard lockdown`` with these arguments."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(mlguard.store, "_default", None)
        try:
            code = main(["lockdown", *arguments])
        except SystemExit as wrong:
            code = int(wrong.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def known(redis: RedisServer) -> list[str]:
    """What a service reads."""
    store = RedisStore(redis.url, timeout=30)
    return [str(block) for block in asyncio.run(Lockdown(store=store).blocks())]


EACH = [
    (("block", "principal", "alice"), ("principal", "alice"), "principal any method: alice"),
    (
        ("block", "principal", "alice", "--method", "jwt", "--issuer", "https://id"),
        ("principal", "alice", "--method", "jwt", "--issuer", "https://id"),
        "principal jwt of https://id: alice",
    ),
    (("block", "principal", "alice", "--method", "api-key"), ("principal", "alice"), "principal api-key: alice"),
    (("block", "address", "203.0.113.0/24"), ("address", "203.0.113.0/24"), "address 203.0.113.0/24"),
    (("block", "address", "::ffff:203.0.113.9"), ("address", "203.0.113.9/32"), "address 203.0.113.9/32"),
    (("block", "route", "/predict"), ("route", "/predict"), "route /predict"),
    (("block", "everything"), ("everything",), "everything"),
    (("label-only",), ("label-only",), "label-only"),
    (("pin", "iris", "3"), ("pin", "iris"), "pin iris@3"),
]


@pytest.mark.parametrize(("block", "lift", "listed"), EACH, ids=[listed for _, _, listed in EACH])
def test_what_is_set_is_listed_and_lifted(
    redis: RedisServer, run: Run, block: tuple[str, ...], lift: tuple[str, ...], listed: str
) -> None:
    """Each kind, by what names it."""
    assert run(*block) == (0, f"{listed}, until it is lifted\n", "")
    assert known(redis) == [listed]
    code, out, _ = run("list")
    assert (code, out.startswith(f"{listed}  since ")) == (0, True)
    assert run("lift", *lift) == (0, f"lifted: {listed}\n", "")
    assert known(redis) == []
    assert run("list") == (0, "Nothing is locked down.\n", "")
    code, out, err = run("lift", *lift)
    assert (code, out, "nothing of this" in err) == (1, "", True)


def test_who_why_and_until_when(redis: RedisServer, run: Run) -> None:
    """Stand in the list, and in the record for the audit log."""
    code, out, _ = run("block", "principal", "alice", "--for", "2h", "--reason", "scraping", "--by", "eve")
    assert code == 0
    assert re.fullmatch(r"principal any method: alice, until \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\n", out)
    listed = run("list")[1]
    assert re.fullmatch(r"principal any method: alice  since \S+ \S+Z until \S+ \S+Z by eve: scraping\n", listed)
    (record,) = asyncio.run(RedisStore(redis.url, timeout=30).get(states._STATE))
    (change,) = states.read_state(record).changes
    assert (change.event, change.by, change.reason, change.until is not None) == ("set", "eve", "scraping", True)


def test_the_user_of_the_machine_has_done_it(redis: RedisServer, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody says otherwise."""
    monkeypatch.setattr("getpass.getuser", lambda: "carol")
    run("block", "everything")
    assert run("list")[1].endswith("by carol\n")

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    run("block", "everything")
    assert run("list")[1].endswith("by unknown\n")


def test_all_is_lifted_at_once(redis: RedisServer, run: Run) -> None:
    """At the end of an incident."""
    for block, _, _ in EACH:
        run(*block)
    code, out, _ = run("lift", "all", "--reason", "over")
    assert (code, out.count("lifted: ")) == (0, len(EACH))
    assert known(redis) == []


def test_one_way_to_prove_it_is_lifted(redis: RedisServer, run: Run) -> None:
    """And the other stays."""
    run("block", "principal", "alice", "--method", "jwt")
    run("block", "principal", "alice", "--method", "api-key")
    run("lift", "principal", "alice", "--method", "jwt")
    assert known(redis) == ["principal api-key: alice"]


def test_what_somebody_called_themselves_does_not_reach_the_terminal(redis: RedisServer, run: Run) -> None:
    """A subject with an escape sequence is shown as text."""
    run("block", "principal", "\x1b[2Jalice\n")
    code, out, _ = run("list")
    assert (code, "\x1b" in out, out.count("\n"), r"\x1b[2Jalice\n" in out) == (0, False, 1, True)
    assert run("lift", "principal", "\x1b[2Jalice\n")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("block", "address", "localhost"), 2, "localhost"),
        (("block", "address", "203.0.113.9/24"), 2, "host bits"),
        (("block", "route", "predict"), 3, "a path such as /predict"),
        (("block", "route", "/"), 3, "block everything"),
        (("block", "principal", ""), 3, "an id"),
        (("block", "everything", "--for", "2"), 2, "such as 2h"),
        (("block", "everything", "--for", "0h"), 2, "such as 2h"),
        (("block", "everything", "--for", "99999w"), 3, "ten years"),
        (("block", "everything", "--reason", "a\nb"), 3, "one line"),
        (("pin", "iris", "0"), 2, "at least 1"),
        (("pin", "Iris", "1"), 3, "a name such as iris"),
        (("block",), 2, "WHAT"),
        ((), 2, "ACTION"),
    ],
)
def test_used_wrongly(redis: RedisServer, run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    """It is said how, and nothing is changed."""
    done, out, err = run(*arguments)
    assert (done, out) == (code, "")
    assert said in err
    assert known(redis) == []


def test_what_cannot_be_read_is_begun_anew(redis: RedisServer, run: Run) -> None:
    """It is said what to do, and done."""
    asyncio.run(RedisStore(redis.url, timeout=30).put(states._STATE, b"nonsense", 1e9))
    for arguments in (("list",), ("block", "everything"), ("lift", "all")):
        code, _, err = run(*arguments)
        assert (code, "mlguard lockdown reset" in err) == (3, True)
    code, out, _ = run("reset", "--reason", "somebody wrote to Redis")
    assert (code, "look at the list" in out) == (0, True)
    assert known(redis) == []


def test_what_can_be_read_is_not_begun_anew_by_mistake(redis: RedisServer, run: Run) -> None:
    """It would end what is locked down, so it must be said; where nothing is, nothing can be lost."""
    assert run("reset")[0] == 0
    run("block", "principal", "mallory")
    code, out, err = run("reset")
    assert (code, out) == (3, "")
    assert "say --yes" in err
    assert "mallory" not in err
    assert known(redis) == ["principal any method: mallory"]
    assert run("reset", "--yes")[0] == 0
    assert known(redis) == []


@pytest.mark.parametrize(
    "path", ["/predict?x=1", "/predict#top", "/caf%C3%A9", "http://localhost/predict", "localhost/predict"]
)
def test_a_route_is_a_path(redis: RedisServer, run: Run, path: str) -> None:
    """What no request's path can be would be a block that covers nothing. The error shows what can be."""
    code, out, err = run("block", "route", path)
    assert (code, out) == (3, "")
    assert "such as /predict" in err
    assert known(redis) == []


def test_a_route_that_was_blocked_before_can_be_lifted(redis: RedisServer, run: Run) -> None:
    """A record from before it was refused is read all the same."""
    record = states.write_state(states.State(blocks=(states.Block("route", "/predict?x=1"),)))
    asyncio.run(RedisStore(redis.url, timeout=30).put(states._STATE, record, 1e9))
    assert run("list")[1].startswith("route /predict?x=1  since ")
    assert run("lift", "route", "/predict?x=1")[0] == 0
    assert known(redis) == []


def test_a_store_of_one_process_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees into the memory of another process, and it is said what to set."""
    monkeypatch.setenv("MLGUARD_STORE_URL", "memory://")
    code, out, err = run("block", "everything")
    assert (code, out, "set it to the Redis of the service" in err) == (3, "", True)


def test_a_store_that_is_away_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is to believe that something is blocked."""
    monkeypatch.setenv("MLGUARD_STORE_URL", "redis://127.0.0.1:1/0")
    code, out, err = run("block", "everything")
    assert (code, out, err.startswith("mlguard: MLGUARD_STORE_URL: Redis cannot be reached")) == (3, "", True)


# Keys and tokens ------------------------------------------------------------------------------------------------------


def test_keys_and_tokens_are_revoked_too(redis: RedisServer, run: Run, tmp_path: Path) -> None:
    """So that they do not hold again when the block ends; others' do."""
    keys = tmp_path / "keys.json"
    for name in ("alice", "bob"):
        assert main(["keys", "new", name, "--file", str(keys)]) == 0
    issuer = TokenIssuer(
        SIGNING, algorithm="HS256", issuer="https://id", audience="https://api", store=RedisStore(redis.url, timeout=30)
    )
    token = asyncio.run(issuer.access_token("alice"))
    code, out, err = run(
        "block", "principal", "alice", "--for", "1h", "--issuer", "https://id", "--revoke", "--file", str(keys)
    )
    assert code == 0
    assert "its tokens of https://id are revoked" in out
    assert re.search(r"Revoked: \S+ of alice\.", err)
    assert [entry.get("disabled", False) for entry in json.loads(keys.read_text("utf-8"))["keys"]] == [True, False]
    assert asyncio.run(_is_revoked(issuer, token))
    assert not asyncio.run(_is_revoked(issuer, asyncio.run(issuer.access_token("bob"))))


async def _is_revoked(issuer: TokenIssuer, token: str) -> bool:
    scope = make_scope("GET", "/", [(b"authorization", f"Bearer {token}".encode())])
    try:
        await issuer.auth(token_url=None)(HTTPConnection(scope), SecurityScopes())
    except NotAuthenticatedError:
        return True
    return False


def test_without_a_file_of_keys_it_is_said(redis: RedisServer, run: Run) -> None:
    """The block holds all the same."""
    code, out, _ = run("block", "principal", "alice", "--revoke")
    assert (code, "its keys are in no file" in out, "without an issuer" in out) == (0, True, True)
    assert known(redis) == ["principal any method: alice"]
