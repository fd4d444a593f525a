"""What is locked down: one small record in the store, which workers read whole and operators change by comparing.

Every record has an origin, made when there was none before, and a revision that counts the changes since. So a worker
that knows more than the store tells an older copy of the same record (a replica that lagged, a backup) from one that
was begun anew after the store had lost everything.
"""

import hashlib
import ipaddress
import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from mlguard.artifacts.model_versions import NAME
from mlguard.errors import ConfigurationError, StoreFullError, UnavailableError
from mlguard.store import Store, Window, store_key

Kind = Literal["principal", "address", "route", "everything", "label-only", "pin"]

#: How many of each kind there may be. They are read whole, twice a second, by every worker.
MOST: dict[Kind, int] = {
    "principal": 1_000,
    "address": 1_000,
    "route": 100,
    "everything": 1,
    "label-only": 1,
    "pin": 100,
}

_STATE = store_key("lockdown")
_CLOCK = store_key("lockdown", "clock")
_KEPT = 100 * 365 * 86_400.0  # seconds: what ends by itself says so in the record
_LONGEST = 10 * 365 * 86_400.0  # seconds for which something is locked down that ends by itself
_LARGEST = 8 << 20  # bytes of a record
_CHANGES = 200  # that are remembered for the audit log
_TRIES = 1_000  # against others who change it at the same time

#: What no path of a request has once it is decoded: a block of it would cover nothing.
_NO_PATH = re.compile(r"[?#]|%[0-9a-f]{2}", re.ASCII | re.IGNORECASE)
_LONGEST_NAME = 256  # characters
_Text = Annotated[str, Field(max_length=_LONGEST_NAME)]
_Count = Annotated[int, Field(ge=0, lt=2**62)]
_Seconds = Annotated[float, Field(ge=-6e10, le=1e11)]  # of the years 68 to 5138, which a calendar has
_STRICT = ConfigDict(strict=True, extra="forbid")


def kept_name(name: str) -> str:
    """The name of a principal or an issuer as the record has it: a digest in the place of a long one.

    Whoever signs tokens decides how long their subjects are, and a long name must be no way around a block.
    """
    if len(name) <= _LONGEST_NAME:
        return name
    return f"sha256:{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Block:
    """One thing that is locked down.

    Attributes:
        kind: ``"principal"``, ``"address"``, ``"route"``, ``"everything"``, ``"label-only"`` or ``"pin"``.
        target: The id of the principal (of a long one, a digest), the network, the path or the name of the model;
            ``""`` where there is but one.
        method: How the principal proves who it is. None: however.
        issuer: Who vouches for the principal. None: whoever.
        version: Of the model that is pinned.
        by: Who has set it.
        reason: Why.
        since: When, in seconds since 1970 by the clock of who has set it.
        until: When it ends by itself, by the same clock; None where it does not.
        ends: The same by the store's clock, which decides.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: Kind
    target: _Text = ""
    method: _Text | None = None
    issuer: _Text | None = None
    version: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    by: _Text = ""
    reason: _Text = ""
    since: _Seconds = 0.0
    until: _Seconds | None = None
    ends: _Seconds | None = None

    @property
    def key(self) -> tuple[str, str, str | None, str | None]:
        """What it is about: to set it again replaces it."""
        if self.kind != "principal":
            return (self.kind, self.target, self.method, self.issuer)
        issuer = None if self.issuer is None else kept_name(self.issuer)
        return (self.kind, kept_name(self.target), self.method, issuer)

    def __str__(self) -> str:
        """In words, as logs and lists have it."""
        if self.kind == "principal":
            issuer = "" if self.issuer is None else f" of {self.issuer}"
            return f"principal {self.method or 'any method'}{issuer}: {self.target}"
        if self.kind == "pin":
            return f"pin {self.target}@{self.version}"
        return f"{self.kind} {self.target}".rstrip()


@dataclass(frozen=True, slots=True)
class Change:
    """Something that was set or lifted, for the audit log."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    revision: _Count
    event: Literal["set", "lifted"]
    what: Annotated[str, Field(max_length=1_000)]
    by: _Text
    reason: _Text
    until: _Seconds | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The whole record."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    mlguard: Literal["Lockdown"] = "Lockdown"
    origin: Annotated[str, Field(max_length=32)] = ""
    revision: _Count = 0
    blocks: tuple[Block, ...] = ()
    changes: Annotated[tuple[Change, ...], Field(max_length=_CHANGES)] = ()


_RECORD: TypeAdapter[State] = TypeAdapter(State)


class UnreadableError(ValueError):
    """The record in the store cannot be read."""


def read_state(record: bytes | None) -> State:
    """A record as it was kept; of none, that nothing is locked down.

    Raises:
        UnreadableError: It is no such record. Nobody knows what it was to lock down.
    """
    if record is None:
        return State()
    try:
        if len(record) > _LARGEST:
            raise ValueError
        state = _RECORD.validate_json(record)
        for block in state.blocks:
            _check(block)
    except (ValidationError, ValueError):  # whose text would quote it
        pass
    else:
        if all(number_of(state.blocks, kind) <= most for kind, most in MOST.items()):
            return state
    raise UnreadableError("the lockdown in the store cannot be read")


def write_state(state: State) -> bytes:
    """A record as it is kept, the same bytes for the same state."""
    return _RECORD.dump_json(state, exclude_defaults=True)


def checked(block: Block) -> Block:
    """A block that can be kept.

    Raises:
        ConfigurationError: It can not, and the text says what is wrong.
    """
    state = State(blocks=(block,))
    try:
        _check(block)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if block.kind == "route" and _NO_PATH.search(block.target):  # not in _check: it may be in a record already
        raise ConfigurationError("a route is the path alone, such as /predict: no ? or #, and no %20 but what it means")
    with suppress(UnreadableError, PydanticSerializationError):  # the latter of half a character
        if read_state(write_state(state)) == state:
            return block
    raise ConfigurationError("names, reasons and who it was are texts of at most 256 characters each")


def _check(block: Block) -> None:
    """Raise ``ValueError`` for a target that is none."""
    target = block.target
    if (block.kind == "principal") < (block.method is not None or block.issuer is not None):
        raise ValueError("only principals have a method and an issuer")
    if (block.kind == "pin") is not (block.version is not None):
        raise ValueError("a pin has the number of a version, and nothing else has")
    if block.kind in {"everything", "label-only"} and target:
        raise ValueError(f"{block.kind} has no target")
    if block.kind == "principal" and not target:
        raise ValueError("whom? A principal has an id")
    if block.kind == "address" and str(ipaddress.ip_network(target)) != target:
        raise ValueError("a network is written as 203.0.113.0/24")
    if block.kind == "route" and (not target.startswith("/") or not target.strip("/ ")):
        raise ValueError("a route is a path such as /predict; for all of them, block everything")
    if block.kind == "pin" and not NAME.fullmatch(target):
        raise ValueError("a model has a name such as iris")
    if not (block.by + block.reason).isprintable():
        raise ValueError("who it was, and why, are one line of text each")


def number_of(blocks: Iterable[Block], kind: Kind) -> int:
    """How many of a kind there are."""
    return sum(block.kind == kind for block in blocks)


# Changes -------------------------------------------------------------------------------------------------------------


async def store_clock(store: Store) -> float:
    """What time it is by the store's clock, which all workers share."""
    return (await store.hit("lockdown", _CLOCK, (Window(1, 1.0),), 0)).at


async def stored(store: Store) -> bytes | None:
    """The record, as it is kept now."""
    (record,) = await store.get(_STATE)
    return record


async def swap(store: Store, old: bytes | None, new: State) -> bytes | None:
    """Keep a record in the place of another. Returns its bytes, or None if another one is there by now.

    Raises:
        StoreFullError: It is larger than what is read, which would shut everything (503).
    """
    record = write_state(new)
    if len(record) > _LARGEST:
        raise StoreFullError("so much is locked down that no more can be kept: lift some", retry_after=60)
    return record if await store.swap(_STATE, old, record, _KEPT) else None


async def set_block(store: Store, block: Block, *, ttl: float | None) -> tuple[Block, bytes]:
    """Lock something down, in the place of what was said about the same before.

    Args:
        store: Where.
        block: What, by whom and why.
        ttl: Seconds after which it ends by itself. None: it does not.

    Returns:
        What was set, and the record.

    Raises:
        ConfigurationError: It cannot be kept, or what is there cannot be read.
        StoreFullError: There are too many of this kind already (503).
        UnavailableError: The store cannot be asked (503). Nothing was changed, as far as is known.
    """
    if ttl is not None and not 0 < ttl <= _LONGEST:
        raise ConfigurationError("what ends by itself does so after more than 0 seconds and at most ten years")
    now, since = await store_clock(store), time.time()
    _, target, method, issuer = block.key
    block = checked(
        replace(
            block,
            target=target,
            method=method,
            issuer=issuer,
            since=since,
            until=None if ttl is None else since + ttl,
            ends=None if ttl is None else now + ttl,
        )
    )

    def add(state: State) -> State:
        others = [one for one in state.blocks if one.key != block.key and not has_ended(one, now)]
        if number_of(others, block.kind) >= MOST[block.kind]:
            raise StoreFullError(
                f"{MOST[block.kind]} of the kind {block.kind} are blocked already: lift some, or block more at once, "
                "such as a network, a route or everything",
                retry_after=60,
            )
        ended = [one for one in state.blocks if one.key != block.key and has_ended(one, now)]
        return _changed(state, (*others, block), [*map(_expiry, ended), _setting(block)])

    return block, await _change(store, add)


async def lift_blocks(
    store: Store, wanted: Callable[[Block], bool], *, by: str, reason: str
) -> tuple[tuple[Block, ...], bytes | None]:
    """End what is locked down.

    Args:
        store: Where.
        wanted: Which of all that is locked down.
        by: Who ends it.
        reason: Why.

    Returns:
        What was lifted, and the record.

    Raises:
        ConfigurationError: What is there cannot be read.
        UnavailableError: The store cannot be asked (503).
    """
    checked(Block("everything", by=by, reason=reason))
    lifted: tuple[Block, ...] = ()

    def drop(state: State) -> State:
        nonlocal lifted
        lifted = tuple(block for block in state.blocks if wanted(block))
        if not lifted:
            return state
        rest = tuple(block for block in state.blocks if not wanted(block))
        changes = [Change(0, "lifted", _named(block), by, reason) for block in lifted]
        return _changed(state, rest, changes)

    record = await _change(store, drop)
    return lifted, record if lifted else None


async def reset(store: Store, *, by: str, reason: str) -> None:
    """Begin the record anew, whatever is there. Workers that know what it was add that again."""
    new = _changed(State(), (), [Change(0, "lifted", "an unreadable record", by, reason)])
    for _ in range(_TRIES):
        if await swap(store, await stored(store), new) is not None:
            return
    raise _too_many()


async def _change(store: Store, edit: Callable[[State], State]) -> bytes:
    for _ in range(_TRIES):
        record = await stored(store)
        try:
            state = read_state(record)
        except UnreadableError as error:
            problem = f"{error}: everything is refused; mlguard lockdown reset begins it anew"
            raise ConfigurationError(problem) from None
        edited = edit(state)
        if edited is state:
            return record or b""
        kept = await swap(store, record, edited)
        if kept is not None:
            return kept
    raise _too_many()


def _too_many() -> UnavailableError:
    return UnavailableError("the lockdown is changed by too many at once", retry_after=1)


def without_ended(state: State, now: float) -> State:
    """The record without what has ended by itself; the same object if nothing has."""
    ended = [block for block in state.blocks if has_ended(block, now)]
    if not ended:
        return state
    return _changed(state, [block for block in state.blocks if not has_ended(block, now)], [*map(_expiry, ended)])


def has_ended(block: Block, now: float) -> bool:
    """Whether it has ended by itself, by the store's clock."""
    return block.ends is not None and block.ends <= now


def _changed(state: State, blocks: Iterable[Block], changes: Iterable[Change]) -> State:
    revision = state.revision + 1
    noted = (*state.changes, *(replace(change, revision=revision) for change in changes))
    origin = state.origin or secrets.token_hex(8)
    return State(origin=origin, revision=revision, blocks=tuple(blocks), changes=noted[-_CHANGES:])


def _setting(block: Block) -> Change:
    return Change(0, "set", _named(block), block.by, block.reason, block.until)


def _expiry(block: Block) -> Change:
    return Change(0, "lifted", _named(block), "expiry", block.reason, block.until)


def _named(block: Block) -> str:
    return str(block)[:1_000]


def spell_time(seconds: float | None) -> str | None:
    """A time in seconds since 1970 as people read it."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
