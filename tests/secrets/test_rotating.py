"""A secret that changes: what is accepted when, what an outage does, and what must never be let in its place."""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import pickle
import random
import threading
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.clock import Clock
from tests.secrets.vaults import Vault, strong
from tests.servers import wait_until

from mlguard import ConfigurationError, KeysUnavailableError, Rotating
from mlguard._lookout import Lookout, restart_all
from mlguard.secrets.rotating import Values

ONE, TWO, THREE = strong(), strong(), strong()
#: Strong as texts go: only what it is tells that it is no secret, and anybody can read it.
PAGE = "<!doctype html><title>502 Bad Gateway</title> The upstream server gave no answer, try again later"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time, for tests that look when the thread would: there is no thread."""
    monkeypatch.setattr(Lookout, "send", lambda lookout: setattr(lookout, "is_out", True))
    return Clock(1_000.0)


@pytest.fixture
def vault() -> Vault:
    return Vault(token=ONE)


def rotating(vault: Vault, clock: Clock, **settings: Any) -> Rotating:
    """Read every 300 seconds by a clock that the test turns, with an hour of overlap and a day of patience."""
    return Rotating(vault, "token", **{"clock": clock, **settings})


def later(secret: Rotating, clock: Clock, seconds: float) -> None:
    """So many seconds pass, and the thread looks."""
    clock.now += seconds
    secret.look()


def accepted(secret: Rotating) -> list[str]:
    return [value.get_secret_value() for value in secret.values()]


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["event"] for record in caplog.records if record.name == "mlguard.audit"]


# The start ------------------------------------------------------------------------------------------------------------


def test_a_secret_is_there_from_the_start(vault: Vault, clock: Clock) -> None:
    """It is read when it is built, once, and white space around it is no part of it."""
    vault.values["token"] = f"{ONE}\n"
    secret = rotating(vault, clock)
    assert (secret.current.get_secret_value(), secret.previous) == (ONE, None)
    assert vault.asked == 1


@pytest.mark.parametrize("value", ["", " \n", None, 5, ONE.encode(), ["a"], "x" * 1_048_577, PAGE, "<html></html>"])
def test_no_start_without_a_value(value: object, clock: Clock) -> None:
    """What is no text, empty, endless or what a proxy says is no secret, and the error quotes nothing."""
    with pytest.raises(ConfigurationError, match="'token'") as refusal:
        rotating(Vault(token=value), clock)
    assert ONE not in str(refusal.value)


def test_no_start_without_the_secret(vault: Vault, clock: Clock) -> None:
    """A source that has none of this name, cannot be asked, crashes or hangs: the error says which."""
    with pytest.raises(ConfigurationError, match="there is none"):
        Rotating(vault, "tokens", clock=clock)
    vault.is_down = True
    with pytest.raises(ConfigurationError, match="cannot be asked"):
        rotating(vault, clock)
    vault.crash = ValueError(f"parsing {ONE}")
    with pytest.raises(ConfigurationError, match="read: ValueError") as refusal:
        rotating(vault, clock)
    assert refusal.value.__cause__ is refusal.value.__context__ is None
    vault.open.clear()
    with pytest.raises(ConfigurationError, match=r"not answered within 0\.01 seconds"):
        rotating(vault, clock, timeout=0.01)
    vault.open.set()


@pytest.mark.parametrize("weak", ["changeme", "hunter2", "a" * 64, "your-256-bit-secret-for-this-service"])
def test_no_start_with_a_weak_secret(weak: str, clock: Clock) -> None:
    """Guessable ones and placeholders are refused by whoever uses it."""
    secret = rotating(Vault(token=weak), clock)
    with pytest.raises(ConfigurationError, match="the secret 'token'") as refusal:
        secret.values()
    assert weak not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"source": object()}, "read"),
        ({"name": ""}, "name of the secret"),
        ({"name": "a b"}, "name of the secret"),
        ({"name": "a\n"}, "name of the secret"),
        ({"name": b"token"}, "name of the secret"),
        ({"name": "x" * 513}, "name of the secret"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": 86_401}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"ttl": "300"}, "ttl"),
        ({"overlap": -1}, "overlap"),
        ({"overlap": 2_592_001}, "overlap"),
        ({"max_stale": 299}, "max_stale"),
        ({"max_stale": float("inf")}, "max_stale"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 61}, "timeout"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(arguments: dict[str, Any], text: str, vault: Vault) -> None:
    """When it is built, before anything is asked."""
    with pytest.raises(ConfigurationError, match=text):
        Rotating(**{"source": vault, "name": "token", **arguments})
    assert vault.asked == 0


# A change -------------------------------------------------------------------------------------------------------------


def test_a_new_value_is_taken_without_a_restart(vault: Vault, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The one before is accepted too until the overlap is over; the audit has the name of the secret."""
    caplog.set_level(logging.INFO)
    secret = rotating(vault, clock)
    assert accepted(secret) == [ONE]
    vault.values["token"] = TWO
    later(secret, clock, 300)
    assert accepted(secret) == [TWO, ONE]
    assert secret.previous is not None
    clock.now += 3_599.9
    assert accepted(secret) == [TWO, ONE]
    clock.now += 0.2
    assert accepted(secret) == [TWO], "to the second, whether the thread has looked or not"
    assert secret.previous is None
    later(secret, clock, 1)
    assert accepted(secret) == [TWO]
    assert events(caplog) == ["secret.rotated"]
    assert "name=token source=Vault" in caplog.text
    assert ONE not in caplog.text
    assert TWO not in caplog.text


def test_without_an_overlap_the_value_before_ends_at_once(vault: Vault, clock: Clock) -> None:
    """For a secret that was stolen."""
    secret = rotating(vault, clock, overlap=0)
    assert accepted(secret) == [ONE]
    vault.values["token"] = TWO
    later(secret, clock, 300)
    assert accepted(secret) == [TWO]


def test_it_is_read_before_the_ttl_ends_and_not_before_it_is_time(vault: Vault, clock: Clock) -> None:
    """Between nine tenths of the ttl and all of it, at another moment in each process."""
    waits = set()
    for _ in range(20):
        secret = rotating(vault, clock)
        asked = vault.asked
        waits.add(secret.look())
        later(secret, clock, 269)
        assert vault.asked == asked
        later(secret, clock, 31)
        assert vault.asked == asked + 1
    assert all(270 <= wait <= 300 for wait in waits)
    assert len(waits) > 10


def test_only_the_last_two_values_are_accepted(vault: Vault, clock: Clock) -> None:
    """A third one ends the overlap of the first."""
    secret = rotating(vault, clock)
    for value in (TWO, THREE):
        vault.values["token"] = value
        later(secret, clock, 300)
    assert accepted(secret) == [THREE, TWO]


def test_a_value_that_flaps_is_one_of_the_two(vault: Vault, clock: Clock) -> None:
    """Replicas that disagree keep both alive and nothing else; the overlap begins with each change."""
    secret = rotating(vault, clock, ttl=300, overlap=400)
    for current, before in [(TWO, ONE), (ONE, TWO)] * 3:
        vault.values["token"] = current
        later(secret, clock, 300)
        assert accepted(secret) == [current, before]
    later(secret, clock, 399)
    assert accepted(secret) == [ONE, TWO]
    later(secret, clock, 1)
    assert accepted(secret) == [ONE]


def test_a_change_takes_effect_everywhere_or_nowhere(vault: Vault, clock: Clock) -> None:
    """One user of the secret that cannot work with the new value keeps it from all of them."""

    def no_digits(values: Values) -> str:
        if values[0].get_secret_value() == TWO:
            raise ConfigurationError("not this one")
        return values[0].get_secret_value()

    secret = rotating(vault, clock)
    any_will_do = secret.derive(lambda values: values[0].get_secret_value())
    choosy = secret.derive(no_digits)
    vault.values["token"] = TWO
    later(secret, clock, 300)
    assert (any_will_do(), choosy(), accepted(secret)) == (ONE, ONE, [ONE])
    assert secret.health.error == "not this one"
    vault.values["token"] = THREE
    later(secret, clock, 60)
    assert (any_will_do(), choosy(), accepted(secret)) == (THREE, THREE, [THREE, ONE])
    assert secret.health.ok


def test_what_is_made_is_one_object_until_the_next_change(vault: Vault, clock: Clock) -> None:
    """So that what depends on it can tell a change by it: when a value comes, and when one goes."""
    secret = rotating(vault, clock, overlap=400)
    made = secret.derive(lambda values: [*values])
    first = made.value
    later(secret, clock, 300)
    assert made.value is first
    vault.values["token"] = TWO
    later(secret, clock, 300)
    second = made.value
    assert len(second) == 2
    clock.now += 400
    third = made.value
    assert len(third) == 1
    secret.look()
    assert made.value is third


def test_who_comes_during_the_overlap_gets_both_values(vault: Vault, clock: Clock) -> None:
    """And who comes after it gets one, whether the thread has looked since or not."""
    secret = rotating(vault, clock)
    vault.values["token"] = TWO
    later(secret, clock, 300)
    assert len(secret.derive(lambda values: values).value) == 2
    clock.now += 3_600
    assert len(secret.derive(lambda values: values).value) == 1


def test_a_value_before_that_a_later_user_cannot_take_is_left_out(vault: Vault, clock: Clock) -> None:
    """It is the current value that must hold."""

    def only_two(values: Values) -> Values:
        if any(value.get_secret_value() != TWO for value in values):
            raise ConfigurationError("not this one")
        return values

    secret = rotating(vault, clock)
    with pytest.raises(ConfigurationError, match="not this one"):
        secret.derive(only_two)
    vault.values["token"] = TWO
    later(secret, clock, 300)
    assert len(secret.derive(only_two).value) == 1


def test_a_crash_of_a_parser_is_a_refusal_that_quotes_nothing(vault: Vault, clock: Clock) -> None:
    """Whatever what is made of a secret raises: the text of an exception may hold what it read."""

    def crash(values: Values) -> None:
        raise ValueError(values[0].get_secret_value())

    with pytest.raises(ConfigurationError, match=r"cannot be used \(ValueError\)") as refusal:
        rotating(vault, clock).derive(crash)
    assert refusal.value.__cause__ is refusal.value.__context__ is None


# An outage ------------------------------------------------------------------------------------------------------------


def test_the_last_good_value_outlives_an_outage(vault: Vault, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt that fails is an alarm, with the time that is left; the one that succeeds ends it."""
    caplog.set_level(logging.INFO)
    secret = rotating(vault, clock, max_stale=3_600)
    vault.is_down = True
    later(secret, clock, 300)
    assert accepted(secret) == [ONE]
    assert (secret.health.ok, secret.age) == (False, 300)
    for _ in range(10):
        later(secret, clock, 60)
    assert vault.asked >= 12
    assert events(caplog) == ["secret.stale"] * 11
    assert "the last good one is used for 3300 s more" in caplog.text
    assert "the last good one is used for 2700 s more" in caplog.text
    vault.is_down = False
    vault.values["token"] = TWO
    later(secret, clock, 60)
    assert accepted(secret) == [TWO, ONE]
    assert secret.health.ok
    assert events(caplog)[-1] == "secret.rotated"


def test_an_outage_may_not_last_for_ever(vault: Vault, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """When the value has become too old, nobody gets it, and nobody is told that a credential is wrong (503)."""
    caplog.set_level(logging.INFO)
    secret = rotating(vault, clock, max_stale=600)
    made = secret.derive(lambda values: values)
    vault.is_down = True
    later(secret, clock, 599)
    assert accepted(secret) == [ONE]
    clock.now += 1
    for use in (secret.values, lambda: secret.current, lambda: secret.previous, lambda: made.value, made):
        with pytest.raises(KeysUnavailableError) as refusal:
            use()
        assert 1 <= int(refusal.value.headers["Retry-After"]) <= 60  # type: ignore[index]  # there is one
    for _ in range(3):
        later(secret, clock, 60)
    assert events(caplog) == ["secret.stale"] + ["secret.unavailable"] * 3
    assert [record.levelname for record in caplog.records if record.name == "mlguard"] == ["ERROR"] + ["CRITICAL"] * 3
    vault.is_down = False
    later(secret, clock, 60)
    assert accepted(secret) == [ONE]


@pytest.mark.parametrize(
    "lie",
    ["", " ", "changeme", "<html><body>502</body></html>", PAGE, '{"error": "sealed"}', "${TOKEN}", "x" * 40,
     "\ud800" * 40, "a\nb" * 40, "\0" * 40, None, 7, b"bytes", "Xq3tYxw0ZkLr8HcNfUe", "x" * 1_048_577],
)  # fmt: skip
def test_what_is_no_secret_never_takes_the_place_of_one(
    lie: object, vault: Vault, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A source that answers nonsense is as good as down: the last good value stays, and the log quotes nothing."""
    secret = rotating(vault, clock, max_stale=600)
    assert accepted(secret) == [ONE]
    vault.values["token"] = lie
    for _ in range(3):
        later(secret, clock, 300)
        if secret.is_usable:
            assert accepted(secret) == [ONE]
    assert not secret.is_usable, "it is not older than it may be, only because something was answered"
    with pytest.raises(KeysUnavailableError):
        secret.values()
    assert ONE not in caplog.text
    if isinstance(lie, str) and len(lie.strip()) > 3:
        assert lie not in caplog.text
    assert secret.health.error


@given(st.one_of(st.text(max_size=200), st.binary(max_size=50), st.none(), st.integers()))
@settings(max_examples=150)
def test_whatever_is_answered_is_taken_whole_or_not_at_all(answer: object) -> None:
    """No answer ends the thread, and none mixes with another."""
    vault, clock = Vault(token=ONE), Clock(1_000.0)
    secret = rotating(vault, clock)
    assert accepted(secret) == [ONE]
    vault.values["token"] = answer
    later(secret, clock, 300)
    assert accepted(secret) in ([ONE], [answer.strip() if isinstance(answer, str) else None, ONE])


@pytest.mark.parametrize("crash", [ZeroDivisionError("x"), RecursionError(), asyncio.CancelledError(), SystemExit(1)])
def test_a_source_that_crashes_is_asked_again(crash: BaseException, vault: Vault, clock: Clock) -> None:
    """Whatever it raises, also what would end a task or a process: nobody would read the secret any more."""
    secret = rotating(vault, clock)
    vault.crash = crash
    later(secret, clock, 300)
    assert (accepted(secret), secret.health.error) == ([ONE], type(crash).__name__)
    vault.crash = None
    vault.values["token"] = TWO
    later(secret, clock, 60)
    assert accepted(secret) == [TWO, ONE]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("is"), st.sampled_from([ONE, TWO, THREE, "changeme", ""])),
        st.tuples(st.just("is down"), st.booleans()),
        st.tuples(st.just("later"), st.sampled_from([0.0, 1.0, 399.0, 400.0, 599.0, 600.0, 5_000.0])),
    ),
    max_size=20,
)


@given(_STEPS)
@settings(max_examples=120)
def test_what_is_accepted_is_what_the_rules_say(steps: list[tuple[str, Any]]) -> None:
    """However values change, lie, flap and fail to come: at most two are accepted, and each for its time."""
    vault, clock = Vault(token=ONE), Clock(1_000.0)
    secret = rotating(vault, clock, overlap=400, max_stale=600)
    assert accepted(secret) == [ONE]
    current, before, until, read_at = ONE, "", -1.0, clock.now
    for step, value in steps:
        if step == "is":
            vault.values["token"] = value
        elif step == "is down":
            vault.is_down = value
        else:
            clock.now += value
        secret.refresh()
        said = vault.values["token"]
        if not vault.is_down and said in {ONE, TWO, THREE}:
            read_at = clock.now
            if said != current:
                current, before, until = said, current, clock.now + 400
        if clock.now >= read_at + 600:
            with pytest.raises(KeysUnavailableError):
                secret.values()
        else:
            assert accepted(secret) == [current, *([before] if clock.now < until else [])]


def test_a_source_that_hangs_holds_nobody_up(vault: Vault, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The value of before goes on, there is an alarm for each attempt, and no second thread waits beside the first."""
    caplog.set_level(logging.INFO)
    secret = rotating(vault, clock, timeout=0.01)
    vault.open.clear()
    for _ in range(4):
        later(secret, clock, 300)
        assert accepted(secret) == [ONE]
    assert vault.asked == 2
    assert events(caplog) == ["secret.stale"] * 4
    assert "not answered within 0.01 seconds" in caplog.text
    vault.open.set()
    wait_until(lambda: secret.health.ok)
    assert secret.age == 900, "as old as the question"
    later(secret, clock, 0)
    assert secret.age == 0


def test_a_refresh_waits_once_for_what_hangs(vault: Vault, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not again for the same read."""
    secret = rotating(vault, clock, timeout=0.01)
    vault.open.clear()
    later(secret, clock, 300)
    waits: list[object] = []
    wait = secret._wait_for

    def counted(running: Any) -> None:
        waits.append(running)
        wait(running)

    monkeypatch.setattr(secret, "_wait_for", counted)
    secret.refresh()
    assert len(waits) == 1
    assert "not answered" in (secret.health.error or "")
    vault.open.set()


def test_an_event_loop_goes_on_while_the_source_hangs(vault: Vault, clock: Clock) -> None:
    """A use neither reads nor waits, with or without a loop."""
    secret = rotating(vault, clock)

    async def use() -> list[str]:
        return accepted(secret)

    assert asyncio.run(use()) == [ONE]
    vault.open.clear()
    clock.now += 300
    thread = threading.Thread(target=secret.look)
    thread.start()
    wait_until(lambda: vault.asked == 2)
    assert asyncio.run(use()) == accepted(secret) == [ONE]
    vault.open.set()
    thread.join()


# Many at once ---------------------------------------------------------------------------------------------------------


def test_two_refreshes_at_once_ask_once(vault: Vault, clock: Clock) -> None:
    """Never two of one secret at a time: an old answer could come last, and take the place of a new one."""
    secret = rotating(vault, clock)
    vault.values["token"] = TWO
    threads = [threading.Thread(target=secret.refresh) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert vault.at_once == 1
    assert accepted(secret) == [TWO, ONE]


def test_a_refresh_asks_after_the_change_that_it_is_about(vault: Vault, clock: Clock) -> None:
    """A read that was under way already had its answer from before."""
    secret = rotating(vault, clock)
    vault.open.clear()
    vault.entered.clear()
    clock.now += 300
    early = threading.Thread(target=secret.look)
    early.start()
    assert vault.entered.wait(10)
    vault.values["token"] = TWO
    late = threading.Thread(target=secret.refresh)
    late.start()
    vault.open.set()
    early.join()
    late.join()
    assert accepted(secret) == [TWO, ONE]


def test_no_thread_ever_sees_half_of_a_change(vault: Vault) -> None:
    """While the value changes and changes, every use has a current value and the one before it, or one alone."""
    line = [strong() for _ in range(16)]
    vault.values["token"] = line[0]
    secret = Rotating(vault, "token")
    made = secret.derive(lambda values: tuple(line.index(value.get_secret_value()) for value in values))
    seen: set[tuple[int, ...]] = set()
    over = threading.Event()

    def use() -> None:
        while not over.is_set():
            seen.add(made.value)

    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    for value in line[1:]:
        vault.values["token"] = value
        secret.refresh()
    over.set()
    for user in users:
        user.join()
    assert made.value == (15, 14)
    assert seen <= {(0,), *((number, number - 1) for number in range(1, 16))}


# Threads and processes ------------------------------------------------------------------------------------------------


def threads_of_secrets() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "mlguard-secret-watch"}


def test_the_thread_begins_with_the_first_use_and_ends_with_the_secret(vault: Vault) -> None:
    """So a server may fork before, and nothing is left of an app that is gone. One thread, however many begin."""
    gc.collect()
    before = threads_of_secrets()
    secret = Rotating(vault, "token")
    made = secret.derive(lambda values: values)
    assert threads_of_secrets() <= before
    uses = [threading.Thread(target=made) for _ in range(8)]
    for use in uses:
        use.start()
    for use in uses:
        use.join()
    (thread,) = threads_of_secrets() - before
    gone = weakref.ref(secret)
    del secret, made, uses, use
    # More than once: the thread itself may be looking at it.
    wait_until(lambda: gc.collect() >= 0 and gone() is None)
    thread.join(10)
    assert not thread.is_alive(), "at once, and not after the ttl"


def test_the_thread_takes_a_new_value_by_itself(vault: Vault) -> None:
    """Without a request, on the real clock."""
    secret = Rotating(vault, "token", ttl=1)
    assert accepted(secret) == [ONE]
    vault.values["token"] = TWO
    wait_until(lambda: accepted(secret) == [TWO, ONE])


def test_a_thread_with_nothing_to_do_waits(vault: Vault, clock: Clock) -> None:
    """Also while the source is down or hangs, and when the clock has jumped: there is a pause between two looks."""
    secret = rotating(vault, clock, timeout=0.01, ttl=1, max_stale=1)
    vault.is_down = True
    waits = []
    for step in range(60):
        clock.now += 1
        if step == 30:
            vault.open.clear()
        waits.append(secret.look())
    assert min(waits) >= 0.05
    vault.open.set()


def test_a_process_without_threads_goes_on(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of before is used, the alarm says why; when there can be threads again, the next use has one."""
    clock = Clock(1_000.0)
    secret = rotating(vault, clock)
    vault.values["token"] = TWO
    clock.now += 300

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert accepted(secret) == [ONE]
        assert secret.health.error == "no thread to load in"
        with pytest.raises(ConfigurationError, match="no thread to load in"):
            rotating(vault, clock)
    clock.now += 60
    assert secret.current
    wait_until(lambda: accepted(secret) == [TWO, ONE])


def test_a_child_of_a_fork_reads_for_itself(vault: Vault) -> None:
    """It has no thread of its parent's, and starts one with its first use."""
    secret = Rotating(vault, "token", ttl=1)
    assert accepted(secret) == [ONE]
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child() -> None:
        vault.values["token"] = TWO
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: accepted(secret) == [TWO, ONE])
        there.send(len(threads_of_secrets()))
        there.send(accepted(secret) == [TWO, ONE])

    process = context.Process(target=child)
    process.start()
    assert here.recv() == 1
    assert here.recv() is True
    process.join(10)
    assert process.exitcode == 0
    assert accepted(secret) == [ONE]


def test_a_child_begins_anew(vault: Vault, clock: Clock) -> None:
    """What runs in the child of a fork, here without one: the lock may be held by a thread that is not there."""
    secret = rotating(vault, clock)
    assert accepted(secret) == [ONE]
    secret._lock.acquire()
    restart_all()
    vault.values["token"] = TWO
    later(secret, clock, 300)
    assert accepted(secret) == [TWO, ONE]


# What is shown --------------------------------------------------------------------------------------------------------


def test_nothing_that_is_shown_has_a_value(vault: Vault, clock: Clock) -> None:
    """Neither a repr nor a health, nor what a debugger prints of the object's members; and it cannot be pickled."""
    secret = rotating(vault, clock)
    made = secret.derive(lambda values: values)
    vault.values["token"] = TWO
    later(secret, clock, 300)
    assert repr(secret) == "Rotating('token' of Vault)"
    assert repr(made) == "Derived(Rotating('token' of Vault))"
    assert isinstance(secret.current, SecretStr)
    shown = f"{secret!r} {made!r} {secret.health} {made.health} {vars(secret)} {vars(made)} {secret.values()}"
    assert ONE not in shown
    assert TWO not in shown
    for holder in (secret, made):
        with pytest.raises((TypeError, AttributeError)):
            pickle.dumps(holder)


def test_many_processes_do_not_ask_at_once(vault: Vault) -> None:
    """Of a hundred that have started together, no tenth of a second has more than a few."""
    clock = Clock(0.0)
    random.seed(0)  # what a worker seeds for its model does not bring them together
    dues = []
    for _ in range(100):
        random.seed(0)
        dues.append(rotating(vault, clock).look())
    most = max(sum(due <= other < due + 0.1 for other in dues) for due in dues)
    assert most < 10


def test_one_thread_watches_where_two_requests_come_first(
    vault: Vault, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was waiting for the lock meanwhile finds that somebody else has started it."""
    secret = rotating(vault, clock)
    sent: list[Lookout] = []

    class Taken(contextlib.AbstractContextManager[None]):
        def __exit__(self, *exception: object) -> None: ...

        def __enter__(self) -> None:
            secret._lookout.is_out = True

    monkeypatch.setattr(secret, "_lock", Taken())
    monkeypatch.setattr(Lookout, "send", sent.append)
    secret._lookout.is_out = False
    secret.watch()
    assert sent == []
