"""A puzzle instead of a refusal: what it costs whom, and that no solution is worth more than one request."""

import asyncio
import base64
import json
import secrets
import sys
import time
from typing import Any

import altcha
import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from hypothesis import example, given
from hypothesis import strategies as st
from tests.asgi import Answer, acall, call
from tests.clock import Clock
from tests.redis_server import redis_server
from tests.servers import serving

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ClientAddress,
    ConfigurationError,
    MemoryStore,
    ProofOfWork,
    RateLimit,
    RedisStore,
    harden,
)
from mlguard.client import solve_challenge

SECRET = secrets.token_urlsafe(32)
HOST = ("192.0.2.1", 1)


def puzzle(*limits: str, **options: Any) -> ProofOfWork:
    """One that is solved at once."""
    settings = {"secret": SECRET, "cost": 1, "tries": 16, "store": MemoryStore(), **options}
    return ProofOfWork(*(limits or ("2/minute",)), **settings)


def service(*guards: Any) -> FastAPI:
    app = FastAPI()
    harden(app)
    app.post("/predict", dependencies=[Depends(guard) for guard in guards])(lambda: None)
    return app


def ask(app: FastAPI, solution: str | bytes | None = None, host: tuple[str, int] = HOST) -> Answer:
    raw = solution.encode() if isinstance(solution, str) else solution
    return call(app, headers=[] if raw is None else [(b"x-altcha", raw)], chunks=[b"{}"], client=host)


def spent(guard: ProofOfWork) -> tuple[FastAPI, dict[str, Any]]:
    """A service whose free requests are used up, and the puzzle that it gives."""
    app = service(guard)
    answers = [ask(app) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    challenge: dict[str, Any] = answers[2].json["challenge"]
    return app, challenge


# What it does ---------------------------------------------------------------------------------------------------------


def test_what_is_free_is_free_and_the_rest_is_work() -> None:
    """The refusal says what to do, before the body is read; each solution is good for one request."""
    app, challenge = spent(puzzle())
    refusal = ask(app)
    assert (refusal.json["type"], refusal.reads) == ("urn:mlguard:problem:proof-of-work-required", 0)
    assert int(refusal.headers["retry-after"]) > 0
    solution = solve_challenge(challenge)
    assert [ask(app, solution).status for _ in range(3)] == [200, 429, 429]
    assert ask(app, solve_challenge(refusal.json["challenge"])).status == 200


def test_a_solution_counts_for_nothing_else() -> None:
    """It does not use up what is free, nor does it make anything free."""
    guard = puzzle()
    app, challenge = spent(guard)
    other = ask(app, host=("192.0.2.2", 1))
    assert other.status == 200
    assert ask(app, solve_challenge(challenge)).status == 200
    assert ask(app).status == 429


def test_a_wrong_solution_leaves_what_is_free() -> None:
    """Who is within the limit is answered, whatever stands in the header."""
    app = service(puzzle())
    assert [ask(app, "nonsense").status for _ in range(3)] == [200, 200, 429]


def test_it_works_over_http_as_the_client_does_it(caplog: pytest.LogCaptureFixture) -> None:
    """As the docstring of ``solve_challenge`` says."""
    with serving(service(puzzle("1/minute"))) as url, httpx.Client(base_url=url, trust_env=False) as client:
        assert client.post("/predict").status_code == 200
        answer = client.post("/predict")
        assert answer.status_code == 429
        solution = solve_challenge(answer.json()["challenge"])
        assert client.post("/predict", headers={"X-Altcha": solution}).status_code == 200
        assert client.post("/predict", headers={"X-Altcha": solution}).status_code == 429
    assert "a solution that was used already" in caplog.text
    assert solution not in caplog.text


def test_an_endpoint_can_give_puzzles_to_the_widget() -> None:
    """Before anything is refused."""
    guard = puzzle()
    app, _ = spent(guard)

    @app.get("/challenge")
    async def challenge(request: Request) -> dict[str, Any]:
        return guard.challenge(request)

    given_out = call(app, "/challenge", method="GET", client=HOST).json
    assert ask(app, solve_challenge(given_out)).status == 200


def test_a_limit_bounds_those_who_solve() -> None:
    """Work buys more requests, and not any number."""
    store = MemoryStore()
    app = service(puzzle("1/minute", store=store), RateLimit("3/minute", store=store))
    statuses = [ask(app).status]
    for _ in range(3):
        refusal = ask(app)
        statuses.append(ask(app, solve_challenge(refusal.json["challenge"])).status)
    assert statuses == [200, 200, 200, 429]


def test_by_principal_and_behind_proxies() -> None:
    """Whoever is one caller elsewhere is one here."""
    record, key = APIKey.generate("alice")
    for by, headers in (
        (APIKeyAuth(APIKeys([record])), [(b"x-api-key", key.encode())]),
        (ClientAddress(trusted_proxies=["192.0.2.0/24"]), [(b"x-forwarded-for", b"203.0.113.5")]),
    ):
        app = service(puzzle("1/minute", by=by))
        assert call(app, headers=headers, client=HOST).status == 200
        refusal = call(app, headers=headers, client=HOST)
        solution = (b"x-altcha", solve_challenge(refusal.json["challenge"]).encode())
        assert call(app, headers=[*headers, solution], client=("192.0.2.9", 2)).status == 200


# What does not get past it --------------------------------------------------------------------------------------------


def solved(challenge: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(base64.b64decode(solve_challenge(challenge)))
    return payload


def packed(payload: Any) -> str:
    return base64.b64encode(json.dumps(payload).encode()).decode()


def test_a_puzzle_belongs_to_its_caller_and_its_guard() -> None:
    """Nobody can solve puzzles for others, or cheap ones here for dear ones there."""
    store = MemoryStore()
    guard, other = puzzle(store=store), puzzle(store=store, name="other")
    (app, challenge), (other_app, _) = spent(guard), spent(other)
    solution = solve_challenge(challenge)
    assert ask(other_app, solution).status == 429
    stranger = ("192.0.2.2", 1)
    assert [ask(app, host=stranger).status for _ in range(2)] == [200, 200]
    assert ask(app, solution, stranger).status == 429
    assert ask(app, solution).status == 200  # for whom it was


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("cost", 0),
        ("keyPrefix", ""),
        ("expiresAt", 2**40),
        ("expiresAt", None),
        ("data", {}),
        ("nonce", "00" * 16),
        ("salt", "00" * 16),
        ("algorithm", "SHA-256"),
        ("keyLength", 0),
    ],
)
def test_a_puzzle_cannot_be_made_easier(member: str, value: Any) -> None:
    """Every part of it is signed."""
    app, challenge = spent(puzzle())
    payload = solved(challenge)
    payload["challenge"]["parameters"][member] = value
    assert ask(app, packed(payload)).status == 429


def test_a_puzzle_of_ones_own_is_none() -> None:
    """Unsigned, or signed with another secret."""
    app, challenge = spent(puzzle())
    data = challenge["parameters"]["data"]
    for secret in (None, "another secret"):
        own = altcha.create_challenge(
            "PBKDF2/SHA-256", 1, key_prefix="0", expires_at=int(time.time()) + 60, data=data, hmac_secret=secret
        )
        assert ask(app, solve_challenge(own.to_dict())).status == 429


@pytest.mark.parametrize("counter", [-1, 2**32, "0", 0.0, None, True, 10**400])
def test_a_solution_that_is_none(counter: Any) -> None:
    """Of a puzzle that is genuine."""
    app, challenge = spent(puzzle())
    payload = solved(challenge)
    payload["solution"]["counter"] = counter
    assert ask(app, packed(payload)).status == 429


def test_a_solution_without_the_work() -> None:
    """A counter whose key does not begin as it must, with that key."""
    app, challenge = spent(puzzle(tries=256))
    payload = solved(challenge)
    one = {**challenge["parameters"], "keyPrefix": ""}
    payload["solution"] = solved({"parameters": one, "signature": challenge["signature"]})["solution"]
    assert ask(app, packed(payload)).status == 429


def test_solutions_expire(caplog: pytest.LogCaptureFixture) -> None:
    """By the service's clock, and by the package's."""
    clock = Clock(time.time())
    guard = puzzle(ttl=60, clock=clock)
    app, challenge = spent(guard)
    solution = solve_challenge(challenge)
    clock.now += 61
    assert ask(app, solution).status == 429
    clock.now -= 3_600
    old = solve_challenge(ask(app).json["challenge"])
    assert ask(app, old).status == 429
    assert caplog.text.count("has expired") == 2


parts = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=3)
members = ("algorithm", "nonce", "salt", "cost", "keyPrefix", "expiresAt", "data", "memoryCost")
payloads = st.fixed_dictionaries(
    {
        "challenge": st.fixed_dictionaries(
            {"parameters": st.fixed_dictionaries(dict.fromkeys(members, parts)), "signature": parts}
        ),
        "solution": st.fixed_dictionaries({"counter": parts, "derivedKey": parts}),
    }
)


@given(st.one_of(st.binary(max_size=200), payloads.map(lambda payload: packed(payload).encode())))
@example(b"")
@example(b"e30=")
@example(base64.b64encode(b"[" * 2_000))
@example(b"A" * 5_000)
def test_whatever_is_sent_is_no_solution(header: bytes) -> None:
    """And never an error."""
    app, _ = SPENT
    answer = ask(app, header.replace(b"\n", b"").replace(b"\r", b""))
    assert answer.status == 429


SPENT = spent(puzzle("2/hour"))


def test_one_solution_is_good_once_however_many_send_it() -> None:
    """At the same moment, to a store that all processes share."""
    with redis_server() as redis:
        app, challenge = spent(puzzle("2/day", store=RedisStore(redis.url, timeout=30)))
        header = (b"x-altcha", solve_challenge(challenge).encode())

        async def crowd() -> list[int]:
            answers = await asyncio.gather(*[acall(app, headers=[header], client=HOST) for _ in range(20)])
            return sorted(answer.status for answer in answers)

        assert asyncio.run(crowd()) == [200] + [429] * 19
        redis.kill()
        assert ask(app, header[1]).status == 503


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "options", "message"),
    [
        ((), {}, "at least one limit"),
        (("60/min",), {}, "is no limit"),
        (("1/minute",), {"secret": "short"}, "secret="),
        (("1/minute",), {"secret": ""}, "secret="),
        (("1/minute",), {"by": "alice"}, "by="),
        *((("1/minute",), {"cost": cost}, "cost=") for cost in (0, 10_001, 1.5, True, None)),
        *((("1/minute",), {"tries": tries}, "tries=") for tries in (0, 1, 15, 16.5, True, 16**7, None)),
        *((("1/minute",), {"ttl": ttl}, "ttl=") for ttl in (0, 9, 3_601, 60.5, True, None)),
        (("1/minute",), {"name": ""}, "name="),
        (("1/minute",), {"store": "redis://"}, "store="),
    ],
)
def test_a_setting_that_cannot_work(limits: tuple[str, ...], options: Any, message: str) -> None:
    """It stops the start, and quotes no secret."""
    with pytest.raises(ConfigurationError, match=message) as error:
        ProofOfWork(*limits, **{"secret": SECRET, **options})
    assert SECRET not in str(error.value)


def test_two_that_would_share_a_bucket_stop_the_start() -> None:
    """Or what is free at one endpoint would be used up at another."""
    store = MemoryStore()
    app = FastAPI()
    harden(app)
    for number in range(2):
        app.post(f"/{number}", dependencies=[Depends(puzzle(store=store))])(lambda: None)
    with pytest.raises(ConfigurationError, match="2 ProofOfWorks"):
        call(app, "/0")


def test_the_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the error says what to install; a client is told by the import."""
    monkeypatch.setitem(sys.modules, "altcha", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlguard\[altcha\]'"):
        puzzle()
    with pytest.raises(ImportError):
        solve_challenge({})


def test_nothing_shows_the_secret() -> None:
    """Neither its repr nor a puzzle."""
    guard = puzzle()
    _, challenge = spent(guard)
    assert repr(guard) == "ProofOfWork('2/minute by address')"
    assert SECRET not in repr(guard) + json.dumps(challenge)


def test_a_client_gives_up() -> None:
    """When a puzzle takes too long."""
    _, challenge = spent(puzzle(tries=16_777_216))
    with pytest.raises(TimeoutError):
        solve_challenge(challenge, timeout=0.01)
