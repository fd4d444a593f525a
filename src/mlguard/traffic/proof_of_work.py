"""A puzzle instead of a refusal, for endpoints that anybody may ask."""

import hmac
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any

from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard
from mlguard._numbers import whole
from mlguard._order import once
from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError, ProofOfWorkRequiredError, StoreFullError, UnavailableError
from mlguard.store import Decision, Store, store_key
from mlguard.traffic._by import By, describe, signature
from mlguard.traffic._counting import CountingGuard
from mlguard.traffic.limits import Limits
from mlguard.traffic.outages import OnStoreError

_ALGORITHM = "PBKDF2/SHA-256"
_MAX_SOLUTION = 4_096  # bytes of the header that are looked at
_TRIES = {16**digits: "0" * digits for digits in range(1, 7)}
_HEADER = "X-Altcha"
_CLOCK_SKEW = 60.0  # seconds by which the clocks of two processes may differ
_MAX_TRIED = 4_096  # solutions that were checked here and that need not be checked again


class ProofOfWork(CountingGuard):
    """Admits so many requests in so much time for nothing, and each further one for a solved puzzle.

    Guards anonymous endpoints against scripts that ask without end: a person's browser works for a second, a script for
    as many seconds as it asks more often. The puzzle is one of ALTCHA's, which its widget for web pages solves, as does
    ``mlguard.client.solve_challenge`` for programs; nobody else is asked. Not against somebody who pays for computers:
    a puzzle costs them next to nothing. To bound those who solve, add a ``RateLimit``.

    A refusal carries the puzzle as ``challenge``. The solution comes back in the header ``X-Altcha``, as the widget
    writes it. It is good once, until it expires, for the caller to whom the puzzle was given, at this guard.

    Making a puzzle keeps nothing. Checking a solution takes as long as one of the client's tries, and one trip to the
    store. Each puzzle is checked once in a process: who sends a solution again, or another one for the same puzzle, is
    refused without that work.

    Args:
        *limits: What is free, as for ``RateLimit``.
        secret: Signs puzzles, at least 128 bits, the same in all processes.
        by: Who is one caller, as for ``RateLimit``. None: the client address.
        cost: Iterations of PBKDF2 in one try, 1 to 10 000. The event loop waits for one try of each solution.
        tries: Tries that a puzzle takes on average: 16, 256, 4096, 65 536, 1 048 576 or 16 777 216.
        ttl: Seconds for which a puzzle holds, 10 to 3600.
        name: Names the bucket, as for ``RateLimit``.
        store: Where requests are counted, and solutions remembered. None is the store that all guards share.
        on_store_error: What happens while the store does not answer, as for ``RateLimit``. No solution counts then,
            because nobody could tell whether it was used.
        local_share: As for ``RateLimit``.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: A limit that cannot be read, a weak secret, another argument that cannot work, or the extra
            ``altcha`` is not installed.
        ProofOfWorkRequiredError: What is free is used up, and there is no solution that holds (429).
        StoreFullError: The caller has solved more than the store remembers of one (503).
        UnavailableError: A store outside this process does not answer, as for ``RateLimit`` (503).
    """

    control = Control.RATE_LIMIT

    def __init__(
        self,
        *limits: str,
        secret: str | bytes,
        by: Callable[..., Any] | Guard | None = None,
        cost: int = 1_000,
        tries: int = 4_096,
        ttl: int = 300,
        name: str | None = None,
        store: Store | None = None,
        on_store_error: OnStoreError = "refuse",
        local_share: float = 0.1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not limits:
            raise ConfigurationError(
                'ProofOfWork needs at least one limit, such as ProofOfWork("60/minute", secret=...)'
            )
        whole("ProofOfWork(cost=...)", cost, least=1, most=10_000)
        whole("ProofOfWork(ttl=...)", ttl, least=10, most=3_600)
        if tries not in _TRIES or isinstance(tries, bool):
            raise ConfigurationError(f"ProofOfWork(tries=...) is one of {', '.join(map(str, _TRIES))}")
        self._secret = secret_bytes(secret, where="ProofOfWork(secret=...)")
        self._altcha = _load_altcha()
        self._limits = Limits.parse(limits, where="ProofOfWork")
        self._by = By(by, where="ProofOfWork")
        self._puzzle = {"cost": cost, "key_prefix": _TRIES[tries]}
        self._ttl = ttl
        self._clock = clock
        self.quota = self._limits.windows
        super().__init__(
            name=name,
            otherwise=f"{', '.join(self._limits.names)} by {self._by.label}",
            store=store,
            on_store_error=on_store_error,
            local_share=local_share,
        )
        self.statuses = (429, 503)
        self._title = f"proof of work: {self.name} ({self._limits.policy})"
        self._bucket = self._title + self._own
        self._tried: dict[str, None] = {}
        self.__signature__ = signature(self._by)

    async def __call__(self, conn: HTTPConnection, who: Any = None) -> None:
        """Let the request through for nothing or for a solution, or refuse it with a puzzle."""
        await once(conn, self, partial(self._judge, conn, who))

    def challenge(self, conn: HTTPConnection, who: Any = None) -> dict[str, Any]:
        """A puzzle for who is calling, for an endpoint from which ALTCHA's widget gets its puzzles.

        Args:
            conn: The request.
            who: What ``by`` has returned, where it needs more than the connection.
        """
        return self._challenge(self._key(self._by.caller(conn, who)))

    async def _judge(self, conn: HTTPConnection, who: Any) -> None:
        caller = self._by.caller(conn, who)
        key = self._key(caller)
        solution = conn.headers.get(_HEADER)
        fault = "no solution" if solution is None else await self._fault(solution, key)
        if not fault:
            return
        decision = await self._counts.hit(self._bucket, key, self._limits.windows, 1)
        if not decision.admitted:
            raise self._refusal(caller, key, decision, fault)

    async def _fault(self, solution: str, key: bytes) -> str:
        """What is wrong with a solution, for the log; empty if nothing is, and then it is used up."""
        if len(solution) > _MAX_SOLUTION:
            return "a solution that is too long"
        try:
            payload = self._altcha.Payload.from_base64(solution)
            parameters = payload.challenge.parameters
            # What costs nothing to see comes first. It is believed only once the signature holds.
            if parameters.data != {"for": self._mark(key)}:
                return "a solution of another caller or another guard"
            if parameters.nonce in self._tried:
                return "a solution that was used already"
            if parameters.expires_at <= self._clock():
                return "a solution that has expired"
            result = self._altcha.verify_solution(payload, self._secret)
        except Exception:  # of a parser, about what a caller has written
            return "a solution that cannot be read"
        if not result.verified:
            if result.invalid_solution:  # of a puzzle that is genuine
                self._note_tried(parameters.nonce)
            return "a solution that has expired" if result.expired else "a solution that does not hold"
        return await self._use_up(parameters, key)

    async def _use_up(self, parameters: Any, key: bytes) -> str:
        nonce, owner = store_key("proof of work", parameters.nonce), store_key("proofs of work", key.hex())
        # For as long as any process takes it for valid.
        ttl = parameters.expires_at - self._clock() + _CLOCK_SKEW
        try:
            is_new = await self.store.add_nonce(nonce, ttl, owner=owner)
        except UnavailableError as error:
            if self.on_store_error == "refuse" or isinstance(error, StoreFullError):
                raise
            return "a solution that cannot be remembered"
        self._note_tried(parameters.nonce)
        return "" if is_new else "a solution that was used already"

    def _note_tried(self, nonce: str) -> None:
        if len(self._tried) >= _MAX_TRIED:
            del self._tried[next(iter(self._tried))]
        self._tried[nonce] = None

    def _challenge(self, key: bytes) -> dict[str, Any]:
        made: dict[str, Any] = self._altcha.create_challenge(
            _ALGORITHM,
            **self._puzzle,
            expires_at=int(self._clock()) + self._ttl,
            data={"for": self._mark(key)},
            hmac_secret=self._secret,
        ).to_dict()
        return made

    def _key(self, caller: Any) -> bytes:
        return store_key(*self._by.identity(caller))

    def _mark(self, key: bytes) -> str:
        """Whose puzzle it is, and whose not. Keyed: a puzzle tells nothing about buckets and callers."""
        text = f"{self._title} {self._puzzle}".encode()  # easy ones of before are none of these
        return hmac.new(self._secret, b"proof of work\0" + text + b"\0" + key, sha256).hexdigest()

    def _refusal(self, caller: Any, key: bytes, decision: Decision, fault: str) -> ProofOfWorkRequiredError:
        return ProofOfWorkRequiredError(
            f"{self.name}: what is free is used up{describe(caller)}, and there is {fault}",
            headers=self._limits.refusal_headers(decision, decision.retry_after),
            challenge=self._challenge(key),
        )


def _load_altcha() -> Any:
    try:
        import altcha  # noqa: PLC0415  # an extra
    except ImportError:
        raise ConfigurationError("ProofOfWork needs the package altcha: pip install 'mlguard[altcha]'") from None
    return altcha
