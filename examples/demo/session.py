"""The session: what the callers do, case by case, and what must come of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from examples.demo.calls import BLACK, ONE, TOO_BRIGHT, ZERO, Caller


@dataclass(frozen=True)
class Refusal:
    """What both sides must read when a request is not answered.

    Attributes:
        status: Of the answer.
        rule: Names the problem.
        log: What the operator reads, and the caller does not.
        members: What the problem says besides.
        media_type: Of the answer. The token endpoints have the type that clients of OAuth expect.
    """

    status: int
    rule: str
    log: str
    members: Mapping[str, Any] = field(default_factory=dict)
    media_type: str = "application/problem+json"


@dataclass(frozen=True)
class Case:
    """One thing that a caller does.

    Attributes:
        title: What it is.
        play: Does it, and returns the last answer. Raises ``UnexpectedError`` if something before it was wrong.
        refusal: What must come of it; None for an answer with status 200.
        private: What the caller sent and nobody may read again, neither in the answer nor in the log.
    """

    title: str
    play: Callable[[], httpx.Response]
    refusal: Refusal | None = None
    private: Sequence[str] = ()


def cases(caller: Caller) -> list[Case]:
    """The whole session, in order."""
    keys, predict = caller.keys, caller.predict
    return [
        Case("a good prediction", caller.good_prediction),
        Case("a batch of three", caller.batch),
        Case("no key", lambda: predict(ZERO, key=""), _unauthenticated("no credential for any of the guards")),
        Case("a wrong key", lambda: predict(ZERO, key=keys.stranger), _unauthenticated("unknown API key")),
        Case(
            "a key without the scope",
            lambda: predict(ZERO, key=keys.bob),
            Refusal(403, "insufficient-scope", log="'bob' lacks scope 'predict'"),
        ),
        Case("a key revoked on the command line", caller.revoked, _unauthenticated("is disabled")),
        Case("a login, and the token it gives", caller.token),
        Case(
            "a wrong password",
            lambda: caller.log_in("guess"),
            _no_grant("wrong password for user 'dora'"),
        ),
        Case("a refresh token, used twice", caller.refreshed_twice, _no_grant("used a second time")),
        Case("a token of that session", caller.token_of_a_stolen_session, _unauthenticated("revoked")),
        Case("NaN", lambda: caller.predict_pixel("NaN"), _invalid("finite", row=0, column=12)),
        Case("Infinity", lambda: caller.predict_pixel("Infinity"), _invalid("finite", row=0, column=12)),
        Case(
            "a value out of range",
            lambda: predict([ZERO, [*ONE[:63], TOO_BRIGHT]]),
            _invalid("range", row=1, column=63),
            private=[str(TOO_BRIGHT)],
        ),
        Case("a ragged batch", lambda: predict([ZERO, ONE[:60], ZERO]), _invalid("columns", row=1)),
        Case("an oversized body", lambda: predict([ZERO] * 10_000), Refusal(413, "body-too-large", log="declared")),
        Case("a signed request, replayed", caller.replayed, _unauthenticated("replay")),
        Case("a signed request, tampered", caller.tampered, _unauthenticated("the body is not the one")),
        Case("a key with a limit of its own", caller.third_of_two, Refusal(429, "rate-limited", log="own limits 2")),
        Case("the 61st request of a minute", caller.sixty_one, Refusal(429, "rate-limited", log="limit used up")),
        Case(
            "a crash inside the model",
            lambda: predict(BLACK),
            Refusal(500, "internal-error", log="ValueError: Input X contains NaN"),
        ),
    ]


def _unauthenticated(reason: str) -> Refusal:
    return Refusal(401, "not-authenticated", log=reason)


def _no_grant(reason: str) -> Refusal:
    return Refusal(400, "invalid-grant", log=reason, members={"error": "invalid_grant"}, media_type="application/json")


def _invalid(broken: str, **place: int) -> Refusal:
    return Refusal(422, "invalid-input", log=f"rule {broken!r}", members={"broken": broken, **place})
