"""What is held of a person, and its erasure (GDPR, articles 15 and 17): ``export_subject`` and ``erase_subject``."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any, get_args

import orjson
from starlette.concurrency import run_in_threadpool

from mlguard._guard import Principal
from mlguard._numbers import is_number
from mlguard.auth.revocations import Revocations, revocation_keys
from mlguard.errors import ConfigurationError
from mlguard.monitoring.events import record_event
from mlguard.monitoring.feedback_quarantine import FeedbackQuarantine
from mlguard.monitoring.quarantined_rows import QuarantinedRow, State
from mlguard.privacy._json_lines import Record
from mlguard.privacy._subject_logs import About
from mlguard.privacy.subject_keys import SubjectKeys
from mlguard.store import Store, default_store
from mlguard.traffic._by import By
from mlguard.traffic.ledger import BudgetStatus, Ledger, registered

#: What a store holds of callers that nobody can look up by who they are, and how long it does.
_NOT_BY_NAME = (
    "counts of rate limits and places: under digests, each until its window ends",
    "counts of budgets in earlier periods: under digests, for a day after the period",
    "sessions and their refresh tokens: under the session's id, which only its tokens have, until they expire",
    "single tokens that were revoked: under the token's id, until it would have expired",
    "nonces of signed requests: under digests, for minutes",
    "failed logins, and addresses logged in from: under digests of name and address, for up to 30 days",
    "answers that repeat_cache keeps: under keyed digests of the questions, until its ttl",
    "when API keys were last used: under their digest, for 400 days; see mlguard keys list",
    "what QueryMonitor remembers of queries: under digests, for a day after the last one, or as its remember= says",
    "who is locked down: by their id, until that ends; see mlguard lockdown list",
)
_NO_QUARANTINE = "rows with labels in quarantine: no quarantine= was given"
_IN_MEMORY = "budgets: each process of the service has them in its memory, until it ends"


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """What a caller has spent of one budget in this period. Of an epsilon ledger, in millionths."""

    budget: str
    caller: str
    status: BudgetStatus


@dataclass(frozen=True, slots=True)
class SubjectExport:
    """What is held of a person, as far as it can be looked up.

    Attributes:
        subject: Who.
        budgets: What they have spent, of each budget of which they have.
        tokens_revoked_until: By issuer (``""`` for none): tokens of this subject that were issued before do not hold.
        feedback: Rows with labels that they have sent, and that are in quarantine.
        records: Records of the logs about them, with what was sealed for them opened.
        unread: What of the logs could not be read or opened, and so may be missing.
        not_looked_up: What else may be held, and cannot be found by who they are.
    """

    subject: str
    budgets: list[BudgetUse]
    tokens_revoked_until: dict[str, datetime]
    feedback: list[QuarantinedRow]
    records: list[Record]
    unread: list[str]
    not_looked_up: list[str]

    def as_json(self) -> bytes:
        """All of it as one JSON document, to hand out once somebody has looked through it."""
        options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
        return orjson.dumps(dataclasses.asdict(self), default=str, option=options)


@dataclass(frozen=True, slots=True)
class SubjectErasure:
    """What was erased of a person, and what was not.

    Attributes:
        key_shredded: Whether something was sealed for them, which opens no more.
        tokens_revoked: How many issuers' tokens hold no more.
        budgets_reset: Budgets of which they had spent something.
        feedback_removed: How many rows of theirs were in quarantine.
        kept: What is held still, and why.
    """

    key_shredded: bool
    tokens_revoked: int
    budgets_reset: list[str]
    feedback_removed: int
    kept: list[str]


async def export_subject(
    subject: str,
    *,
    callers: Sequence[Principal | str] = (),
    store: Store | None = None,
    keys: SubjectKeys | None = None,
    quarantine: FeedbackQuarantine | None = None,
    logs: Iterable[str | os.PathLike[str] | Mapping[str, Any]] = (),
    names: Iterable[str] = (),
    fields: Iterable[str] = ("subject", "principal"),
    clock: Callable[[], float] = time.time,
) -> SubjectExport:
    """Gather what the store and the logs hold of a person.

    Not for an endpoint: it reads whole logs. Look through what it has found before you hand it out: a record may name
    other people too.

    A record is about the person if one of ``fields``, at any depth, is the subject or one of ``names``, or if something
    in it is sealed for them. What is sealed for them is opened, with the name of its member as the context that
    it was sealed for.

    Args:
        subject: Who, as in ``SubjectKeys.seal`` and in logs.
        callers: As whom they call: ``Principal("alice", method="api-key")``, or a name that ``by=`` returns.
        store: The service's. None is what ``MLGUARD_STORE_URL`` names.
        keys: Opens what is sealed.
        quarantine: Where rows with labels wait.
        logs: Files of JSON lines, packed by gzip or not, or records.
        names: What else stands for them in records, such as their pseudonyms.
        fields: Which members of records name a person.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: The subject is no text, or empty, or a caller is none.
        UnavailableError: The store or the key file does not answer (503).
    """
    identities = _identities(subject, callers)
    store = default_store() if store is None else store
    missing = [*_NOT_BY_NAME]
    budgets = []
    for budget, ledger, identity in await _accounts(store, identities, missing):
        status = await ledger.status(store, identity, clock())
        if status.used:
            budgets.append(BudgetUse(budget, identity[-1], status))
    revoked = {}
    for caller in _tokens(callers):
        (known,) = await store.get(revocation_keys(None, subject=caller.id, issuer=caller.issuer)[0])
        if known is not None:
            revoked[caller.issuer or ""] = datetime.fromtimestamp(float(known.split()[0]), UTC)
    if keys is None:
        missing.append("what is sealed in logs: no keys= were given to open it")

    feedback: list[QuarantinedRow] = []
    if quarantine is None:
        missing.append(_NO_QUARANTINE)
    else:
        feedback = await run_in_threadpool(_rows_of, quarantine, callers)

    def look_into_logs() -> About:
        about = About(subject, keys=keys, names=frozenset({subject, *names}), fields=frozenset(fields))
        about.look_into(logs)
        return about

    about = await run_in_threadpool(look_into_logs)
    return SubjectExport(subject, budgets, revoked, feedback, about.records, about.unread, missing)


async def erase_subject(
    subject: str,
    *,
    callers: Sequence[Principal | str] = (),
    store: Store | None = None,
    keys: SubjectKeys | None = None,
    quarantine: FeedbackQuarantine | None = None,
    token_lifetime: float | None = None,
    clock: Callable[[], float] = time.time,
) -> SubjectErasure:
    """Erase what the store holds of a person, and make unreadable what was sealed for them.

    Tokens of theirs that were issued up to now hold no more, their key is shredded, what they have spent of budgets is
    set to 0, and their rows leave the quarantine. Done again, it does what is left. What it does not reach is in the
    result: what stands in clear in logs, what a model was trained on, and what ends by itself.

    Epsilon ledgers stay as they are: what was told about **other** people's data is not untold, and who is erased could
    ask for it anew.

    Take away their API keys and their login first, or they go on. The log learns that somebody was erased, and not who.

    Args:
        subject: As for :func:`export_subject`.
        callers: As for :func:`export_subject`.
        store: As for :func:`export_subject`.
        keys: Whose key to shred.
        quarantine: Where rows with labels wait.
        token_lifetime: Seconds after which the last of their tokens has expired. Needed for callers by ``"jwt"``.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: The subject is no text, or empty, a caller is none, or ``token_lifetime`` is missing.
        UnavailableError: The store or the key file does not answer: not all is erased (503).
    """
    identities = _identities(subject, callers)
    tokens = _tokens(callers)
    if tokens and not (is_number(token_lifetime) and 0 < token_lifetime < math.inf):
        raise ConfigurationError("erase_subject(token_lifetime=...) is for how many seconds their tokens may hold yet")
    store = default_store() if store is None else store
    kept = [*_NOT_BY_NAME, "what stands in logs in clear", "API keys and logins: see mlguard keys revoke"]
    if quarantine is None:
        kept.append(_NO_QUARANTINE)
    for caller in tokens:
        revocations = Revocations(store=store, clock=clock)
        await revocations.erase(caller.id, issuer=caller.issuer, lifetime=token_lifetime or 0.0)
    if tokens:
        kept.append("that tokens were revoked: under digests, until the last of them has expired")
    shredded = keys is not None and await run_in_threadpool(keys.erase, subject)
    reset = []
    for budget, ledger, identity in await _accounts(store, identities, kept):
        if budget.startswith("epsilon "):
            kept.append(f"{budget}: what was told is not untold, so its count stays")
            continue
        spent = await ledger.forget(store, identity, clock())
        if spent:
            reset.append(budget)
    rows = 0 if quarantine is None else await run_in_threadpool(_forget, quarantine, callers)
    record_event("subject.erasure_done", key_shredded=int(shredded), tokens=len(tokens), budgets=len(reset), rows=rows)
    return SubjectErasure(shredded, len(tokens), reset, rows, kept)


def _identities(subject: object, callers: Sequence[Principal | str]) -> list[tuple[str, ...]]:
    if not isinstance(subject, str) or not subject:
        raise ConfigurationError("the subject is a text that is not empty")
    if isinstance(callers, str | Principal):
        raise ConfigurationError('callers=... is a list, such as [Principal("alice", method="api-key")]')
    by = By(None, where="callers=...: by")
    return [by.identity(caller) for caller in callers]


def _tokens(callers: Sequence[Principal | str]) -> list[Principal]:
    return [caller for caller in callers if isinstance(caller, Principal) and caller.method == "jwt"]


def _rows_of(quarantine: FeedbackQuarantine, callers: Sequence[Principal | str]) -> list[QuarantinedRow]:
    found: dict[int, QuarantinedRow] = {}
    for caller, state in product(callers, get_args(State)):
        after = -1
        while page := quarantine.rows(caller=caller, state=state, after=after):
            found.update((row.id, row) for row in page)
            after = page[-1].id
    return [found[id_] for id_ in sorted(found)]


def _forget(quarantine: FeedbackQuarantine, callers: Sequence[Principal | str]) -> int:
    return sum(quarantine.forget(caller) for caller in callers)


async def _accounts(
    store: Store, identities: list[tuple[str, ...]], missing: list[str]
) -> list[tuple[str, Ledger, tuple[str, ...]]]:
    """Each caller's account in each budget that a service has used in this store."""
    if not store.suspends:
        missing.append(_IN_MEMORY)
    budgets = await registered(store)
    return [(name, ledgers["caller"], identity) for name, ledgers in budgets.items() for identity in identities]
