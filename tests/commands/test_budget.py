"""``mlguard budget``, on a real Redis that a running service uses."""

import logging
from collections.abc import Callable, Iterator

import httpx
import pytest
from fastapi import Depends, FastAPI, Security

import mlguard.store
from mlguard import APIKey, APIKeyAuth, APIKeys, QueryBudget, RedisStore, harden
from mlguard.__main__ import main
from tests.redis_server import RedisServer, redis_server
from tests.servers import serving

RECORD, SECRET = APIKey.generate("alice")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A server, which the environment names."""
    with redis_server() as server:
        monkeypatch.setenv("MLGUARD_STORE_URL", server.url)
        yield server


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``mlguard budget`` with these arguments."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(mlguard.store, "_default", None)
        try:
            code = main(["budget", *arguments])
        except SystemExit as wrong:
            code = int(wrong.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def service(redis: RedisServer) -> Iterator[httpx.Client]:
    """A running service with a budget by key, which has a total, and one by address."""
    store = RedisStore(redis.url, timeout=30)
    caller = APIKeyAuth(APIKeys([RECORD]))
    app = FastAPI()
    harden(app)
    by_key = QueryBudget("3/month", by=caller, name="predictions", total="100/year", store=store)
    by_address = QueryBudget("2/day", store=store, name="visitors")
    app.get("/predict", dependencies=[Security(caller), Depends(by_key)])(lambda: None)
    app.get("/visit", dependencies=[Depends(by_address)])(lambda: None)
    with (
        serving(app) as url,
        httpx.Client(base_url=url, headers={"x-api-key": SECRET}, trust_env=False, timeout=30) as client,
    ):
        yield client


def statuses(client: httpx.Client, path: str, number: int) -> list[int]:
    return [client.get(path).status_code for _ in range(number)]


def test_what_is_granted_and_reset_holds_at_once(service: httpx.Client, run: Run) -> None:
    """In the running service, for the caller that was named."""
    assert statuses(service, "/predict", 4) == [200, 200, 200, 429]
    code, out, _ = run("show", "predictions", "--caller", "alice")
    assert (code, out.partition(", until")[0]) == (0, "predictions: api-key 'alice' has 0 of 3 left, 3 spent")
    _, granted, _ = run("grant", "predictions", "2", "--caller", "alice")
    assert granted.startswith("predictions: api-key 'alice' has 2 of 3 left, 1 spent")
    assert granted.endswith("(before: 3 spent)\n")
    assert statuses(service, "/predict", 3) == [200, 200, 429]
    code, out, _ = run("reset", "predictions", "--caller", "alice")
    assert (code, out.partition(", until")[0]) == (0, "predictions: api-key 'alice' has 3 of 3 left, 0 spent")
    assert out.endswith("(before: 3 spent)\n")
    assert statuses(service, "/predict", 4) == [200, 200, 200, 429]
    assert "has 92 of 100 left, 8 spent" in run("show", "predictions", "--everybody")[1]


def test_budgets_are_listed(service: httpx.Client, run: Run) -> None:
    """Those that a service has used."""
    assert run("show") == (0, "No service has used a budget in this store.\n", "")
    statuses(service, "/predict", 1)
    statuses(service, "/visit", 1)
    listed = "predictions: 3/month for caller, 100/year for total\nvisitors: 2/day for caller\n"
    assert run("show") == (0, listed, "")


def test_addresses_are_callers(service: httpx.Client, run: Run) -> None:
    """As they are counted, so an IPv6 address is its /64. They are names too, as all that a function returns."""
    assert statuses(service, "/visit", 3) == [200, 200, 429]
    out = run("reset", "visitors", "--address", "127.0.0.1")[1]
    assert out.startswith("visitors: 127.0.0.1 has 2 of 2 left")
    assert statuses(service, "/visit", 1) == [200]
    assert "has 1 of 2 left" in run("show", "visitors", "--caller", "127.0.0.1", "--method", "name")[1]
    run("grant", "visitors", "5", "--address", "2001:db8::1")
    for same in ("2001:db8::ffff", "2001:db8::/64", "2001:DB8:0:0::2"):
        assert "visitors: 2001:db8::/64 has 7 of 2 left" in run("show", "visitors", "--address", same)[1]


def test_changes_are_logged(service: httpx.Client, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """With the principal, and without an address."""
    caplog.set_level(logging.WARNING, "mlguard")
    statuses(service, "/predict", 1)
    statuses(service, "/visit", 1)
    caplog.clear()
    run("grant", "predictions", "2", "--caller", "alice")
    run("reset", "predictions", "--everybody")
    run("reset", "visitors", "--address", "127.0.0.1")
    run("show", "predictions", "--caller", "alice")
    assert caplog.messages == [
        "budget predictions: 2 units granted to api-key principal 'alice'",
        "budget predictions: begun anew for all callers together, with 1 units spent",
        "budget visitors: begun anew, with 1 units spent",
    ]


def test_a_name_that_is_wrong_is_told(service: httpx.Client, run: Run) -> None:
    """A budget that is none, with those that there are, and a caller who has spent nothing."""
    statuses(service, "/predict", 1)
    code, out, err = run("show", "prediction", "--caller", "alice")
    assert (code, out, err) == (3, "", "mlguard: there is no budget 'prediction'; there are: 'predictions'\n")
    for asked in (("show",), ("grant", "5"), ("reset",)):
        action, *units = asked
        assert "is it the right caller?" in run(action, "predictions", *units, "--caller", "alicia")[1]
        run("reset", "predictions", "--caller", "alicia")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("grant", "predictions", "0", "--caller", "a"), 2, "a whole number of at least 1"),
        (("grant", "predictions", "-5", "--caller", "a"), 2, ""),
        (("grant", "predictions", "1.5", "--caller", "a"), 2, "a whole number of at least 1"),
        (("grant", "predictions", str(2**53), "--caller", "a"), 2, "a whole number of at least 1"),
        (("grant", "predictions", "5"), 3, "say whose budget"),
        (("show", "predictions"), 3, "say whose budget"),
        (("reset", "predictions"), 3, "say whose budget"),
        (("show", "predictions", "--caller", "a", "--method", "jwt"), 3, "needs the --issuer"),
        (("show", "predictions", "--caller", "a", "--everybody"), 2, "not allowed with"),
        (("show", "predictions", "--caller", "a", "--address", "127.0.0.1"), 2, "not allowed with"),
        (("show", "visitors", "--address", "localhost"), 2, "an address, such as 192.0.2.1"),
    ],
)
def test_used_wrongly(service: httpx.Client, run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    """It is said how, and nothing is changed."""
    statuses(service, "/predict", 1)
    done, out, err = run(*arguments)
    assert (done, out) == (code, "")
    assert said in err


def test_a_subject_of_tokens_has_an_issuer(service: httpx.Client, run: Run) -> None:
    """Two issuers' alice are two callers."""
    statuses(service, "/predict", 1)
    for issuer, left in (("https://one", 5), ("https://two", 3)):
        whose = ("--caller", "alice", "--method", "jwt", "--issuer", issuer)
        if left == 5:
            run("grant", "predictions", "2", *whose)
        assert f"has {left} of 3 left" in run("show", "predictions", *whose)[1]


def test_a_store_of_one_process_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees into the memory of another process."""
    monkeypatch.setenv("MLGUARD_STORE_URL", "memory://")
    code, _, err = run("show")
    assert (code, "MLGUARD_STORE_URL is memory://" in err) == (3, True)


def test_a_store_that_is_away_is_said(run: Run, redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """In one line."""
    caplog.set_level(logging.CRITICAL, "mlguard")
    redis.kill()
    code, out, err = run("show")
    assert (code, out, err.startswith("mlguard: MLGUARD_STORE_URL: Redis cannot be reached")) == (3, "", True)


def test_no_total_is_said(service: httpx.Client, run: Run) -> None:
    """A budget without one."""
    statuses(service, "/visit", 1)
    assert run("show", "visitors", "--everybody")[2] == (
        "mlguard: the budget 'visitors' has no total over all callers\n"
    )
