"""Tokens taken back before they expire."""

import asyncio
from typing import Any

import pytest

from mlguard import ConfigurationError, MemoryStore, Revocations
from tests.clock import Clock

ISSUER = "https://id.example"


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000.0)


@pytest.fixture
def revocations(clock: Clock) -> Revocations:
    return Revocations(store=MemoryStore(clock=clock), clock=clock)


def covers(revocations: Revocations, jti: str | None = "1", **changed: Any) -> bool:
    """Whether Alice's token, issued at 990, was revoked."""
    token = {"subject": "alice", "issuer": ISSUER, "issued_at": 990.0, **changed}
    return asyncio.run(revocations.covers(jti, **token))


def test_a_token_is_revoked_by_its_id_and_issuer(revocations: Revocations, clock: Clock) -> None:
    """Only that token, until no guard would let it in, whatever clocks it allows for."""
    asyncio.run(revocations.revoke("1", issuer=ISSUER, expires_at=1_060))
    assert covers(revocations)
    assert not covers(revocations, "2")
    assert not covers(revocations, None)
    assert not covers(revocations, issuer=None)
    clock.now = 1_359
    assert covers(revocations)
    clock.now = 1_360
    assert not covers(revocations)


def test_an_expired_token_needs_no_room(revocations: Revocations) -> None:
    """What no longer holds anyway is not kept."""
    asyncio.run(revocations.revoke("1", issuer=ISSUER, expires_at=700))
    assert not covers(revocations)


def test_all_tokens_of_a_subject_are_revoked_up_to_now(revocations: Revocations, clock: Clock) -> None:
    """Those issued before, and none issued later. A token that does not say when it was issued falls too."""
    asyncio.run(revocations.revoke_all("alice", issuer=ISSUER, lifetime=600))
    assert covers(revocations)
    assert covers(revocations, issued_at=1_000.0)
    assert covers(revocations, None, issued_at=None)
    assert not covers(revocations, issued_at=1_000.001)
    assert not covers(revocations, subject="bob")
    assert not covers(revocations, issuer=None)
    clock.now = 1_899
    assert covers(revocations)
    clock.now = 1_900
    assert not covers(revocations)


def test_a_shorter_revocation_does_not_end_a_longer_one(revocations: Revocations, clock: Clock) -> None:
    """Who revokes the access tokens of somebody whose refresh tokens are revoked gives none of those back."""
    asyncio.run(revocations.revoke_all("alice", issuer=ISSUER, lifetime=86_400))
    clock.now += 10
    asyncio.run(revocations.revoke_all("alice", issuer=ISSUER, lifetime=60))
    assert covers(revocations, issued_at=1_010.0)
    clock.now += 80_000
    assert covers(revocations)


def test_revocations_at_the_same_time_are_all_kept(clock: Clock) -> None:
    """Two that meet in the store do not undo each other."""

    class Waiting(MemoryStore):
        async def get(self, *keys: bytes) -> tuple[bytes | None, ...]:
            found = await super().get(*keys)
            await asyncio.sleep(0)
            return found

    revocations = Revocations(store=Waiting(clock=clock), clock=clock)

    async def together() -> None:
        lifetimes = (60, 86_400, 600)
        await asyncio.gather(*[revocations.revoke_all("alice", issuer=ISSUER, lifetime=each) for each in lifetimes])

    asyncio.run(together())
    clock.now += 80_000
    assert covers(revocations)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_revocation_that_would_hold_nothing_is_an_error(revocations: Revocations, seconds: float) -> None:
    """A mistake in the caller's arithmetic does not leave tokens alive that are thought to be dead."""
    with pytest.raises(ValueError, match="lifetime"):
        asyncio.run(revocations.revoke_all("alice", issuer=ISSUER, lifetime=seconds))
    if seconds not in {0, -1}:  # a date that is past is none
        with pytest.raises(ValueError, match="expires_at"):
            asyncio.run(revocations.revoke("1", issuer=ISSUER, expires_at=seconds))


def test_processes_that_share_a_store_share_revocations(clock: Clock) -> None:
    """What one has revoked, the other refuses; another store knows nothing of it."""
    store = MemoryStore(clock=clock)
    asyncio.run(Revocations(store=store, clock=clock).revoke("1", issuer=None, expires_at=2_000))
    assert covers(Revocations(store=store), issuer=None)
    assert not covers(Revocations(store=MemoryStore()), issuer=None)


def test_a_store_must_be_one() -> None:
    """A URL is not taken for a store."""
    with pytest.raises(ConfigurationError, match=r"Revocations\(store=...\)"):
        Revocations(store="redis://")  # type: ignore[arg-type]
