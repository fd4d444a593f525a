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


def test_it_is_switched_on_when_a_limit_is_near() -> None:
    """Four of five for nothing, and the fifth for work; the limit itself holds for who solves, too."""
    store = MemoryStore()
    app = service(puzzle("4/minute", store=store), RateLimit("5/minute", store=store))
    assert [ask(app).status for _ in range(4)] == [200] * 4
    refusals = [ask(app) for _ in range(3)]  # which use up nothing of the limit
    assert {refusal.json["type"] for refusal in refusals} == {"urn:mlguard:problem:proof-of-work-required"}
    answers = [ask(app, solve_challenge(refusal.json["challenge"])) for refusal in refusals]
    assert [answer.status for answer in answers] == [200, 429, 429]
    assert answers[1].json["type"] == "urn:mlguard:problem:rate-limited"


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
    easier = altcha.solve_challenge(altcha.Challenge.from_dict({"parameters": one}))
    assert easier is not None
    payload["solution"] = easier.to_dict()
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


def test_a_puzzle_that_was_easier_is_none() -> None:
    """One of the same guard, from before it was made harder."""
    easy, hard = puzzle(name="one"), puzzle(name="one", tries=256)
    _, challenge = spent(easy)
    app, _ = spent(hard)
    assert ask(app, solve_challenge(challenge)).status == 429


@pytest.mark.parametrize("is_right", [True, False])
def test_a_puzzle_is_checked_once(is_right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending a solution again, or guess after guess, costs the service no work."""
    app, challenge = spent(puzzle())
    payload = solved(challenge)
    solution = packed(payload if is_right else payload | {"solution": {"counter": 1, "derivedKey": "00"}})
    checked = []
    derive = altcha.v2.derive_key_pbkdf2

    def counted(*args: Any) -> bytes:
        checked.append(args)
        return derive(*args)

    monkeypatch.setattr(altcha.v2, "derive_key_pbkdf2", counted)
    assert [ask(app, solution).status for _ in range(5)] == [200 if is_right else 429] + [429] * 4
    assert ask(app, packed(payload)).status == 429
    assert len(checked) == 1


def test_what_was_tried_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is no longer known here is still known to the store."""
    monkeypatch.setattr("mlguard.traffic.proof_of_work._MAX_TRIED", 2)
    guard = puzzle()
    app, _ = spent(guard)
    solutions = [solve_challenge(ask(app).json["challenge"]) for _ in range(4)]
    assert [ask(app, solution).status for solution in solutions] == [200] * 4
    assert len(guard._tried) == 2
    assert [ask(app, solution).status for solution in solutions] == [429] * 4


def test_a_solution_is_good_once_where_clocks_differ() -> None:
    """A process that is ahead makes puzzles that hold for longer elsewhere: they are remembered for so long."""
    now = time.time()
    elapsed, ahead, behind = Clock(), Clock(now + 45), Clock(now)
    store = MemoryStore(clock=elapsed)
    first, second = (puzzle("2/day", name="puzzles", ttl=10, store=store, clock=clock) for clock in (ahead, behind))
    _, challenge = spent(first)
    solution = solve_challenge(challenge)
    app = service(second)
    assert ask(app, solution).status == 200
    elapsed.now, behind.now = 40, now + 40
    second._tried.clear()  # as in a third process
    assert ask(app, solution).status == 429


def test_while_the_store_is_away() -> None:
    """Nobody, everybody, or a share of what is free; a solution counts for nothing."""
    with redis_server() as redis:
        guards = {
            policy: puzzle("20/day", name=policy, store=RedisStore(redis.url), on_store_error=policy)
            for policy in ("refuse", "allow", "local")
        }
        app = FastAPI()
        harden(app)
        for policy, guard in guards.items():
            app.post(f"/{policy}", dependencies=[Depends(guard)])(lambda: None)
        conn = Request({"type": "http", "client": HOST, "headers": []})
        solutions = {policy: solve_challenge(guard.challenge(conn)) for policy, guard in guards.items()}
        redis.kill()
        for policy, expected in (("refuse", [503] * 3), ("allow", [200] * 3), ("local", [200, 200, 429])):
            header = (b"x-altcha", solutions[policy].encode())
            answers = [call(app, f"/{policy}", headers=[header], client=HOST) for _ in range(3)]
            assert [answer.status for answer in answers] == expected, policy
        assert [guard.decided_without_store for guard in guards.values()] == [0, 3, 3]


def test_a_caller_has_a_share_of_what_is_remembered() -> None:
    """Who solves without end is told that there is no room, whatever the policy for a store that is away."""
    store = MemoryStore(max_nonces=10, max_nonces_per_owner=1)
    app, _ = spent(puzzle(store=store, on_store_error="allow"))
    solutions = [solve_challenge(ask(app).json["challenge"]) for _ in range(2)]
    assert [ask(app, solution).status for solution in solutions] == [200, 503]


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


FUZZED = puzzle("2/hour")
SPENT, GENUINE = spent(FUZZED)
# Near misses, which get further than what belongs to nobody.
near = st.builds(
    lambda changes, solution: {
        "challenge": {**GENUINE, "parameters": GENUINE["parameters"] | changes},
        "solution": solution,
    },
    st.dictionaries(st.sampled_from([name for name in members if name != "data"]), parts),
    st.fixed_dictionaries({"counter": parts, "derivedKey": parts}),
)


@given(st.one_of(st.binary(max_size=200), (payloads | near).map(lambda payload: packed(payload).encode())))
@example(b"")
@example(b"e30=")
@example(base64.b64encode(b"[" * 2_000))
@example(b"A" * 5_000)
def test_whatever_is_sent_is_no_solution(header: bytes) -> None:
    """And never an error."""
    FUZZED._tried.clear()
    answer = ask(SPENT, header.replace(b"\n", b"").replace(b"\r", b""))
    assert answer.status == 429


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
        (("1/minute",), {"on_store_error": "open"}, "on_store_error="),
        (("1/minute",), {"local_share": 0}, "local_share="),
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


@given(st.one_of(st.dictionaries(st.sampled_from(["parameters", "signature"]), parts), payloads.map(dict)))
@example({})
@example({"parameters": None})
def test_a_client_solves_nothing_else(challenge: Any) -> None:
    """What a service sends in a refusal is read as carefully as what a caller sends."""
    with pytest.raises(ValueError, match="no challenge of ProofOfWork"):
        solve_challenge(challenge.get("challenge", challenge))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("algorithm", "SCRYPT"),
        ("algorithm", "PBKDF2/SHA-512"),
        ("cost", 10_001),
        ("cost", 0),
        ("cost", True),
        ("keyLength", 2**30),
        ("nonce", "0"),
        ("salt", ""),
        ("keyPrefix", "ab"),
        ("keyPrefix", "0" * 7),
        ("keyPrefix", 0),
    ],
)
def test_a_client_is_not_made_to_work_for_hours(member: str, value: Any) -> None:
    """One try could take that long, and the time-out is looked at between tries."""
    _, challenge = spent(puzzle())
    challenge["parameters"][member] = value
    with pytest.raises(ValueError, match="no challenge of ProofOfWork"):
        solve_challenge(challenge)


def test_a_client_gives_up() -> None:
    """When a puzzle takes too long."""
    _, challenge = spent(puzzle(tries=16_777_216))
    with pytest.raises(TimeoutError):
        solve_challenge(challenge, timeout=0.01)
