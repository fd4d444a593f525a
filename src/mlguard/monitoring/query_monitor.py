"""Queries that look like an attack on the model: noticed, and answered with less or not at all."""

import asyncio
import inspect
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, get_args

from fastapi import Depends
from numpy.typing import ArrayLike
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, Principal, RequestMemory
from mlguard._lookout import OwnLock
from mlguard._numbers import seconds, whole
from mlguard._order import once
from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConcurrencyLimitedError, ConfigurationError, QueriesSuspectedError, UnavailableError
from mlguard.monitoring._query_brake import QueryBrake
from mlguard.monitoring._query_calibration import calibrate
from mlguard.monitoring._query_exempt import Exempt
from mlguard.monitoring._query_queue import QueryQueue
from mlguard.monitoring._query_watch import Asked, QueryWatch
from mlguard.monitoring._recent_peaks import RecentPeaks
from mlguard.monitoring.events import record_event
from mlguard.monitoring.measurements import Measurement
from mlguard.monitoring.query_reference import QueryReference
from mlguard.store import NEAR, REPEAT, Sighting, Store, default_store, store_key
from mlguard.traffic._by import By, signature

Act = Literal["observe", "slow", "coarsen", "refuse"]
OnStoreError = Literal["refuse", "allow"]

_KINDS = ("near-duplicates", "margins", "distances", "other-accounts")
_MOST_KNOWN = 10_000  # suspects that a process remembers by itself
_OWN_KEY = secrets.token_bytes(32)  # of this process, so that monitors of one name know each other's fingerprints
_LOOK_AGAIN = 60.0  # seconds after which a store that was away is asked for the end of a verdict again


class _Suspect(NamedTuple):
    caller: Any
    until: float
    declared: bool


class QueryMonitor(Guard):
    """Notices queries that look like steps of an attack: many close to each other, at the edge, or far from usual ones.

    Three kinds of evidence are summed up for each caller, and two of them must agree:

    * near-duplicates: queries that share most of their salted fingerprints with an earlier one (after Blacklight, Li et
      al., 2022). Exact repeats are not counted. Near-duplicates of other callers' queries alone are two kinds at once:
      an attack that is spread over accounts leaves each of them little else.
    * margins: cumulative sums (Page, 1954) on how sure the model is, seen by ``truncate_output``. Below the usual, or
      hardly different from query to query.
    * distances: the same on how far queries are from usual ones.

    Guards against attacks that walk: HopSkipJump, SimBA, line searches, membership queries with jitter. It does **not**
    see who copies the model with ordinary inputs, nor what is made on a copy and tried once, and who mixes attack with
    enough ordinary queries, or many attacks with each other, stays below it. Sensors, whose readings are alike, look
    like an attack: exempt them.

    What is done about it is up to ``act``. An event is recorded in any case: ``query.suspected`` with who, the kinds of
    evidence and after how many queries; ``query.cleared`` when the verdict has ended. No event holds an input.

    Args:
        features: The guard that reads the rows, such as ``Features``. Each row is a query.
        by: Whose queries, as for ``RateLimit``.
        reference: What usual queries are like: from :meth:`calibrate`, or :meth:`QueryReference.load`.
        act: What is done about a suspect. ``"observe"``: nothing but the event, so no request waits for a verdict:
            queries are noted up to 0.1 s later, and a request to end the process may be quicker. ``"slow"``: each
            request waits before its body is read. ``"coarsen"``: ``truncate_output`` answers with the label alone.
            ``"refuse"``: 403.
        delay: Seconds that a suspect's request waits, with ``"slow"``, 0 to 30.
        max_waiting: Requests that wait at a time. More of suspects are refused (429).
        hold: Seconds for which a verdict holds after the last query that gave cause for it.
        remember: Seconds for which a caller is remembered after its last query, at least ``hold``.
        exempt: Callers that are not watched: names, ids of principals, or :class:`Principal` where an id alone could
            be somebody else's.
        exempt_scopes: Scopes that exempt a principal who holds one.
        across_callers: Whether near-duplicates of other callers' queries count: against one attacker with many
            accounts. Who can guess what another will ask can bring it into suspicion by this: False where that may be.
        key: A secret of 128 bits or more, from which the fingerprints are drawn: the same in every process. None is one
            of this process, for a store in this process.
        name: Names what is remembered. Monitors of one name, reference and store share it, such as those of two routes
            to one model; of two names they share nothing.
        store: Where callers are remembered. None is the store that all guards share.
        on_store_error: What happens while the store does not answer. ``"refuse"``: nobody is admitted. ``"allow"``:
            everybody is, unwatched; whom this process knows as a suspect is treated as one. With ``"observe"``, that is
            so once 4 096 requests, or 16 MB of them, wait to be noted.
        clock: Seconds, never going backwards.

    Raises:
        ConfigurationError: A setting that cannot work.
        QueriesSuspectedError: The caller is a suspect, with ``"refuse"`` (403).
        ConcurrencyLimitedError: Too many requests of suspects wait already (429).
        UnavailableError: A store outside this process does not answer (503).
    """

    control = Control.DETECTION

    def __init__(
        self,
        features: Callable[..., Any] | Guard,
        *,
        reference: QueryReference,
        by: Callable[..., Any] | Guard | None = None,
        act: Act = "observe",
        delay: float = 1.0,
        max_waiting: int = 100,
        hold: float = 3_600.0,
        remember: float = 86_400.0,
        exempt: Collection[str | Principal] = (),
        exempt_scopes: Collection[str] = (),
        across_callers: bool = True,
        key: str | bytes | None = None,
        name: str = "queries",
        store: Store | None = None,
        on_store_error: OnStoreError = "refuse",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(features) or isinstance(features, type):
            raise ConfigurationError("QueryMonitor(features) is the guard that reads the rows, such as Features")
        if not isinstance(reference, QueryReference):
            raise ConfigurationError(
                "QueryMonitor(reference=...) is a QueryReference: QueryMonitor.calibrate(X, scores=...) makes one"
            )
        if getattr(features, "columns", reference.columns) != reference.columns:
            raise ConfigurationError("QueryMonitor(reference=...) is of another number of columns than features")
        if act not in get_args(Act):
            raise ConfigurationError('QueryMonitor(act=...) is "observe", "slow", "coarsen" or "refuse"')
        if on_store_error not in get_args(OnStoreError):
            raise ConfigurationError('QueryMonitor(on_store_error=...) is "refuse" or "allow"')
        if store is not None and not isinstance(store, Store):
            raise ConfigurationError("QueryMonitor(store=...) must be a Store, such as MemoryStore()")
        if not isinstance(name, str) or not name:
            raise ConfigurationError("QueryMonitor(name=...) is a text that is not empty")
        seconds("QueryMonitor(delay=...)", delay, least=0, most=30)
        seconds("QueryMonitor(hold=...)", hold, least=1, most=31 * 86_400)
        seconds("QueryMonitor(remember=...)", remember, least=hold, most=366 * 86_400)
        self._by = By(by, where="QueryMonitor")
        self._exempt = Exempt(exempt, exempt_scopes)
        self.source = features if isinstance(features, Guard) else None
        self.store = default_store() if store is None else store
        self.stores = (self.store,)
        self.name = name
        self.act: Act = act
        self._delay = delay
        self._max_waiting = whole("QueryMonitor(max_waiting=...)", max_waiting, least=1)
        self._waiting = 0
        self._hold = hold
        self._allows = on_store_error == "allow"
        self._clock = clock
        self._watch = QueryWatch(
            reference,
            _secret(key, self.store),
            self.store,
            bucket=f"{name} {reference.digest}",
            hold=hold,
            ttl=remember,
            across=across_callers,
        )
        #: Nothing is done about what is found: nobody need wait for it.
        self._queue = QueryQueue(self._watch, self._take, at_once=self.store.suspends) if act == "observe" else None
        self._lock = OwnLock()  # event loops in several threads may share a monitor
        self._suspects: OrderedDict[bytes, _Suspect] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._peaks = RecentPeaks(len(_KINDS), clock)
        refusals = {"slow": (429,), "refuse": (403,)}.get(act, ())
        self.statuses = (*refusals, *((503,) if self.store.suspends and not self._allows else ()))
        brake = QueryBrake(self, self._by, self._stop, refusals, waits=act == "slow") if refusals else None
        self.__signature__ = _signature(self._by, brake, features)

    @staticmethod
    def calibrate(x: ArrayLike, *, scores: ArrayLike | None = None, same_units: bool = False) -> QueryReference:
        """Measure what usual queries are like.

        Args:
            x: Rows such as honest callers send, and the model was **not** trained on: of those it is surer than of
                others. Shape ``(rows, columns)``, 100 different rows at least; a thousand are better. NaN is a missing
                value.
            scores: What the model says of each, shape ``(rows, classes)``, or ``(rows,)`` of a model with one number
                as answer. None: margins are not judged, and the other two kinds must agree.
            same_units: Whether columns are of one kind, such as pixels, and so are not put on one scale each.

        Returns:
            The reference. Save it beside the model.

        Raises:
            ConfigurationError: Too few rows, or anything else than finite numbers.
        """
        return calibrate(x, scores, same_units=same_units)

    async def __call__(self, conn: HTTPConnection, who: Any = None, brake: None = None, rows: Any = None) -> None:  # noqa: ARG002  # FastAPI has it run first
        """Note the queries of this request, and act on a suspect."""
        await once(conn, self, partial(self._judge, conn, who, rows))

    async def clear(self, caller: Any) -> None:
        """Forget a caller and the verdict on it. Other processes learn of it with its next request.

        Args:
            caller: A :class:`Principal`, or a name, as ``by`` returns it.

        Raises:
            UnavailableError: The store does not answer (503).
        """
        key = self._key(caller)
        if self._queue is not None:
            self._queue.forget(key)
        await self._watch.forget(key)
        with self._lock:
            self._suspects.pop(key, None)
        record_event("query.cleared", **self._facts(caller, key), by="operator")

    def measurements(self) -> Iterable[Measurement]:
        """Numbers of this process, for metrics."""
        for what in ("watched", "near", "repeated", "suspected", "slowed", "coarsened", "refused", "unwatched"):
            name = f"mlguard_queries_{what}"
            yield Measurement(name, self._counts[what], {"monitor": self.name}, "counter")
        for kind, peak in zip(_KINDS, self._peaks.read(), strict=True):
            yield Measurement("mlguard_query_evidence", peak, {"monitor": self.name, "kind": kind}, "gauge")
        yield Measurement("mlguard_query_suspects", len(self._suspects), {"monitor": self.name}, "gauge")
        yield Measurement("mlguard_queries_waiting", self._waiting, {"monitor": self.name}, "gauge")
        queued = 0 if self._queue is None else len(self._queue)
        yield Measurement("mlguard_queries_queued", queued, {"monitor": self.name}, "gauge")

    async def _judge(self, conn: HTTPConnection, who: Any, rows: Any) -> None:
        caller = self._by.caller(conn, who)
        if self._exempt.covers(caller):
            return
        asked = self._watch.asked(self._key(caller), rows)
        if self._queue is not None and self._queue.put(asked, caller):
            RequestMemory.of(conn.scope).watchers.append(asked.see)
            return
        try:
            sighting = await self._watch.note(asked)
        except UnavailableError:
            if not self._allows:
                raise
            self._count(unwatched=1)
            if self._is_suspect(asked.key):
                self._coarsen(conn)
            return
        RequestMemory.of(conn.scope).watchers.append(asked.see)
        await self._take(asked, caller, sighting)
        if not sighting.seconds:
            return
        if self.act == "refuse":
            raise self._refusal()
        self._coarsen(conn)

    async def _take(self, asked: Asked, caller: Any, sighting: Sighting) -> None:
        """Take what the store says of queries that were noted."""
        seen = sighting.seen
        self._count(watched=len(seen), near=seen.count(NEAR), repeated=seen.count(REPEAT))
        self._peaks.note(sighting.evidence)
        if asked.was_tried and sighting.seconds and not sighting.change and asked.key not in self._suspects:
            sighting = sighting._replace(change=1)  # its beginning may have been told to nobody
        self._remember(asked.key, caller, sighting)
        await self._end_verdicts()

    def _coarsen(self, conn: HTTPConnection) -> None:
        """Show a suspect less, if that is what is done. The other acts come before the body is read, or at once."""
        if self.act == "coarsen":
            self._count(coarsened=1)
            RequestMemory.of(conn.scope).label_only = True

    def _is_suspect(self, key: bytes) -> bool:
        """Whether this process knows of a verdict that holds."""
        suspect = self._suspects.get(key)
        return suspect is not None and suspect.until > self._clock()

    def _count(self, **numbers: int) -> None:
        with self._lock:
            for what, number in numbers.items():
                self._counts[what] += number

    def _remember(self, key: bytes, caller: Any, sighting: Sighting) -> None:
        """Keep in mind who is a suspect, and record when that begins and ends."""
        with self._lock:
            known = self._suspects.pop(key, None)
            if sighting.seconds:
                declared = sighting.change > 0 or (known is not None and known.declared)
                self._suspects[key] = _Suspect(caller, self._clock() + sighting.seconds, declared)
                if len(self._suspects) > _MOST_KNOWN:
                    self._suspects.popitem(last=False)
        if sighting.change < 0:
            record_event("query.cleared", **self._facts(caller, key), by="time")
        if sighting.change > 0:
            self._count(suspected=1)
            kinds = ",".join(kind for bit, kind in enumerate(_KINDS) if sighting.votes >> bit & 1)
            record_event(
                "query.suspected", **self._facts(caller, key), votes=kinds, queries=sighting.queries, act=self.act
            )

    async def _end_verdicts(self) -> None:
        """Ask about the verdict that this process has known longest, if its time is over."""
        now = self._clock()
        with self._lock:
            key, suspect = next(iter(self._suspects.items()), (b"", None))
            if suspect is None or suspect.until > now:
                return
            del self._suspects[key]
        if not suspect.declared:  # who has recorded that it began records that it ended
            return
        try:
            sighting = await self._watch.look(key)
        except UnavailableError:  # nothing to whoever asks now
            more = _LOOK_AGAIN
        else:
            more = sighting.seconds  # other processes have seen more of it
            if not more and sighting.change < 0:
                record_event("query.cleared", **self._facts(suspect.caller, key), by="time")
        if more:
            with self._lock:
                self._suspects[key] = suspect._replace(until=now + more)

    async def _stop(self, conn: HTTPConnection, who: Any) -> None:
        """Hold up or refuse a suspect before its body is read."""
        caller = self._by.caller(conn, who)
        if self._exempt.covers(caller) or not self._is_suspect(self._key(caller)):
            return
        if self.act == "refuse":
            raise self._refusal()
        if self._waiting >= self._max_waiting:
            raise ConcurrencyLimitedError(f"{self.name}: too many requests of suspects wait", retry_after=1)
        self._count(slowed=1)
        self._waiting += 1
        try:
            await asyncio.sleep(self._delay)
        finally:
            self._waiting -= 1

    def _refusal(self) -> QueriesSuspectedError:
        self._count(refused=1)
        return QueriesSuspectedError(f"{self.name}: a suspect")

    def _key(self, caller: Any) -> bytes:
        return store_key("queries", self._watch.bucket, *self._by.identity(caller))

    def _facts(self, caller: Any, key: bytes) -> dict[str, str]:
        """Who, for an event. What a function names callers by may be no business of a log: a digest stands for it."""
        if isinstance(caller, Principal):
            issuer = {"issuer": caller.issuer} if caller.issuer else {}
            return {"monitor": self.name, "principal": caller.id, "method": caller.method, **issuer}
        return {"monitor": self.name, "caller": key.hex()[:16]}

    def __repr__(self) -> str:
        return f"QueryMonitor({self.name!r}, act={self.act!r})"


def _signature(by: By, brake: Guard | None, features: Any) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed: dict[str, Any] = {"brake": brake, "rows": features}
    more = [
        inspect.Parameter(name, kind, annotation=Annotated[Any, Depends(dependency)])
        for name, dependency in needed.items()
        if dependency is not None
    ]
    own = signature(by)
    return own.replace(parameters=[*own.parameters.values(), *more])


def _secret(key: str | bytes | None, store: Store) -> bytes:
    if key is not None:
        return secret_bytes(key, where="QueryMonitor(key=...)")
    if not store.forgets_on_restart:
        raise ConfigurationError(
            "QueryMonitor(key=...): with a store that several processes share, give all of them the same secret"
        )
    return _OWN_KEY
