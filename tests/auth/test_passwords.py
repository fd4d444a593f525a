"""Passwords: hashed as they should be, few at a time, and the same for those who do not exist."""

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from mlguard import ConfigurationError, InvalidInputError, OverloadedError, PasswordCheck, Passwords
from tests.auth.logins import CHEAP, cheap_passwords

DEARER = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=8, parallelism=1),))
COMPOSED, DECOMPOSED = "caf\u00e9 \ufb01n", "cafe\u0301 fin"


class Watched:
    """A hasher that waits until it is let go, and knows how many were at work with it at the same time."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.at_work = 0
        self.most_at_work = 0
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Event()
        self._lock = threading.Lock()

    def hash(self, password: str, /) -> str:
        return f"hash of {password}"

    def verify_and_update(self, password: str, stored: str, /) -> tuple[bool, str | None]:
        self.started.set()
        with self._lock:
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
        self.go.wait(10)
        with self._lock:
            self.at_work -= 1
            self.checked.append(stored)
        if stored == "unknown kind":
            raise ValueError(stored)
        return stored == f"hash of {password}", None


def verify(passwords: Passwords, password: str, password_hash: str | None) -> PasswordCheck:
    return asyncio.run(passwords.verify(password, password_hash))


def test_default_is_argon2id_as_owasp_has_it() -> None:
    """19 MiB, two passes, one lane, and a salt of its own for every hash."""
    passwords = Passwords()
    first, second = (asyncio.run(passwords.hash("correct horse")) for _ in range(2))
    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert first != second
    assert verify(passwords, "correct horse", first) == PasswordCheck(True)
    assert verify(passwords, "Correct horse", first) == PasswordCheck(False)


def test_hash_out_of_date_is_handed_back_upgraded() -> None:
    """Only to somebody who knew the password. It is in no repr."""
    old = CHEAP.hash("right")
    passwords = Passwords(DEARER)
    check = verify(passwords, "right", old)
    assert check.valid
    assert check.upgraded_hash is not None
    assert ",t=2," in check.upgraded_hash
    assert check.upgraded_hash not in repr(check)
    assert verify(passwords, "right", check.upgraded_hash) == PasswordCheck(True)
    assert verify(passwords, "wrong", old) == PasswordCheck(False)


def test_both_ways_to_type_a_letter_are_the_same_password() -> None:
    """What looks the same is the same: composed or not, ligature or not."""
    passwords = cheap_passwords()
    hashed = asyncio.run(passwords.hash(DECOMPOSED))
    assert verify(passwords, COMPOSED, hashed) == verify(passwords, DECOMPOSED, hashed) == PasswordCheck(True)
    assert not verify(passwords, "cafe fin", hashed).valid


def test_hash_of_a_password_as_it_was_typed_still_verifies_and_is_upgraded() -> None:
    """Whoever moves here with hashes that were not normalised is not locked out."""
    passwords = cheap_passwords()
    check = verify(passwords, COMPOSED, CHEAP.hash(COMPOSED))
    assert check.valid
    assert check.upgraded_hash is not None
    assert verify(passwords, DECOMPOSED, check.upgraded_hash) == PasswordCheck(True)
    assert not verify(passwords, COMPOSED, CHEAP.hash("another")).valid


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800", "x" * 1025, "é" * 513])
def test_what_can_be_no_password_is_refused_and_never_hashed(bad: str) -> None:
    """Nothing is cut off, so that no two passwords are one, and no megabytes are hashed."""
    watched = Watched()
    passwords = Passwords(watched)
    watched.checked.clear()
    assert not passwords.accepts(bad)
    assert not verify(passwords, bad, f"hash of {bad}").valid
    with pytest.raises(InvalidInputError) as refusal:
        asyncio.run(passwords.hash(bad))
    assert not bad or bad not in f"{refusal.value.detail}{refusal.value.reason}"
    assert watched.checked == []


def test_longest_password_holds_to_its_last_byte() -> None:
    """No hash here stops at 72 bytes."""
    passwords = cheap_passwords(max_length=64)
    hashed = asyncio.run(passwords.hash("x" * 64))
    assert verify(passwords, "x" * 64, hashed).valid
    assert not verify(passwords, "x" * 63 + "y", hashed).valid
    assert not passwords.accepts("x" * 65)


@given(st.text(st.characters(), max_size=300))
def test_no_text_makes_it_crash(text: str) -> None:
    """Whatever is typed is accepted, and verifies, or is refused."""
    if PASSWORDS.accepts(text):
        assert verify(PASSWORDS, text, asyncio.run(PASSWORDS.hash(text))).valid
    else:
        assert not verify(PASSWORDS, text, None).valid


PASSWORDS = cheap_passwords(max_length=300)


def test_as_many_hashes_are_checked_for_somebody_who_does_not_exist(caplog: pytest.LogCaptureFixture) -> None:
    """One for a wrong password, one for no account, and one more where the stored hash is of no known kind."""
    watched = Watched()
    passwords = Passwords(watched)
    watched.checked.clear()
    for password_hash in ("hash of another", None, "unknown kind"):
        assert not verify(passwords, "guess", password_hash).valid
    wrong, nobody, unknown, instead = watched.checked
    assert (wrong, unknown) == ("hash of another", "unknown kind")
    assert nobody == instead
    assert [record.getMessage() for record in caplog.records] == [
        "a stored password hash cannot be verified: ValueError"
    ]


def test_unusable_hashes_let_nobody_in() -> None:
    """Neither what Django and Unix write for "no password", nor a hash of another kind."""
    passwords = cheap_passwords()
    for unusable in ("", "!", "*", "right", "$2b$12$" + "x" * 53, "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA"):
        assert not verify(passwords, "right", unusable).valid
        assert not verify(passwords, "", unusable).valid


def test_no_more_are_hashed_at_a_time_than_allowed() -> None:
    """A hundred at once: so many work, so many wait, the others are refused and told when to come back."""

    async def flood() -> list[object]:
        return await asyncio.gather(
            *(passwords.verify("right", "hash of right") for _ in range(100)), return_exceptions=True
        )

    watched = Watched()
    passwords = Passwords(watched, concurrency=2, max_waiting=10)
    outcomes = asyncio.run(flood())
    refused = [outcome for outcome in outcomes if isinstance(outcome, OverloadedError)]
    assert (len(outcomes) - len(refused), len(refused)) == (12, 88)
    assert all(isinstance(outcome, OverloadedError | PasswordCheck) for outcome in outcomes)
    assert watched.most_at_work <= 2
    assert refused[0].status_code == 503
    assert refused[0].headers is not None
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert all(isinstance(outcome, PasswordCheck) for outcome in asyncio.run(asyncio.wait_for(flood_of(passwords), 10)))


async def flood_of(passwords: Passwords) -> list[PasswordCheck]:
    """As many as have room, in another event loop."""
    return await asyncio.gather(*(passwords.verify("right", "hash of right") for _ in range(12)))


def test_who_hangs_up_holds_the_place_until_the_thread_is_done() -> None:
    """Or a caller could hang up again and again, and have more hashed than may be."""

    async def hang_up() -> None:
        watched.started.clear()
        watched.go.clear()
        first = asyncio.create_task(passwords.verify("right", None))
        await asyncio.to_thread(watched.started.wait, 10)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(OverloadedError):
            await passwords.verify("right", None)
        watched.go.set()
        while True:
            try:
                assert not (await passwords.verify("right", None)).valid
            except OverloadedError:
                await asyncio.sleep(0.001)
            else:
                return

    watched = Watched()
    passwords = Passwords(watched, concurrency=1, max_waiting=0)
    asyncio.run(asyncio.wait_for(hang_up(), 10))
    assert watched.most_at_work == 1


def test_who_gives_up_waiting_leaves_the_line() -> None:
    """A place in the line is not lost when its owner goes."""

    async def give_up() -> None:
        watched.go.clear()
        first = asyncio.create_task(passwords.verify("right", None))
        await asyncio.sleep(0)
        for _ in range(3):
            waiting = asyncio.create_task(passwords.verify("right", None))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        last = asyncio.create_task(passwords.verify("right", "hash of right"))
        watched.go.set()
        assert not (await first).valid
        assert (await last).valid

    watched = Watched()
    passwords = Passwords(watched, concurrency=1, max_waiting=1)
    asyncio.run(asyncio.wait_for(give_up(), 10))


def test_service_may_fork_after_it_has_hashed() -> None:
    """Workers that are forked from a process that made a user's hash, say, have threads of their own."""
    passwords = cheap_passwords()
    stored = asyncio.run(passwords.hash("right"))
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child() -> None:
        there.send([verify(passwords, typed, stored).valid for typed in ("right", "wrong")])

    process = context.Process(target=child, daemon=True)
    process.start()
    answered = here.poll(10)
    process.kill()
    process.join(10)
    assert answered
    assert here.recv() == [True, False]


def test_child_of_a_fork_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in the child, here without one: places that were taken in the parent are free."""
    passwords = cheap_passwords(concurrency=1, max_waiting=0)

    async def fork() -> None:
        async with passwords.turn():
            with pytest.raises(OverloadedError):
                await passwords.verify("right", None)
            monkeypatch.setattr(os, "getpid", lambda: -1)
            assert not (await passwords.verify("right", None)).valid

    asyncio.run(fork())


def test_event_loop_goes_on_while_passwords_are_hashed() -> None:
    """What hashes is not the thread that answers."""
    names: set[str] = set()

    class Named(Watched):
        def verify_and_update(self, password: str, stored: str, /) -> tuple[bool, str | None]:
            names.add(threading.current_thread().name)
            return super().verify_and_update(password, stored)

    passwords = Passwords(Named())
    names.clear()
    verify(passwords, "right", None)
    assert all(name.startswith("mlguard-passwords") for name in names)
    assert names


class VerifiesNothing(Watched):
    def verify_and_update(self, password: str, stored: str, /) -> tuple[bool, str | None]:
        return False, None


class VerifiesAll(Watched):
    def verify_and_update(self, password: str, stored: str, /) -> tuple[bool, str | None]:
        return True, None


class ReturnsBool(Watched):
    def verify_and_update(self, password: str, stored: str, /) -> Any:
        return True


class Fails(Watched):
    def hash(self, password: str, /) -> str:
        raise RuntimeError(password)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Passwords(VerifiesNothing()),
        lambda: Passwords(VerifiesAll()),
        lambda: Passwords(ReturnsBool()),
        lambda: Passwords(Fails()),
        lambda: Passwords("argon2"),  # type: ignore[arg-type]
        lambda: Passwords(object()),  # type: ignore[arg-type]
        lambda: cheap_passwords(concurrency=0),
        lambda: cheap_passwords(concurrency=True),
        lambda: cheap_passwords(max_waiting=-1),
        lambda: cheap_passwords(max_length=63),
        lambda: cheap_passwords(max_length=1_000_000),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(make: Callable[[], Passwords]) -> None:
    """A hasher that lets everybody in, or nobody, never gets as far as a login."""
    with pytest.raises(ConfigurationError, match="Passwords") as refusal:
        make()
    assert refusal.value.__context__ is None


def test_repr_says_what_it_is() -> None:
    """And holds no hash."""
    assert repr(cheap_passwords(concurrency=3)) == "Passwords(PasswordHash, concurrency=3)"
