"""What a report tells of an audit log, counted while its records go by, in memory that does not grow with the log."""

import heapq
import itertools
import math
import re
from collections.abc import Iterable
from typing import Any

from mlguard.monitoring._report_html import shown
from mlguard.monitoring._report_reading import amount, count, members, name
from mlguard.monitoring._report_sketches import Distinct, Entry, Heaviest

MOST_SLOTS = 240
#: Lengths of a slot of time in seconds. Each is a multiple of the one before.
WIDTHS = (1, 10, 60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800, 2_419_200, 31_449_600)
TENTHS = 10

#: (method, issuer, id); None where nobody was authenticated.
Caller = tuple[str, str, str] | None

#: What events are about, by the beginning of their names.
GROUPS = {
    "query.": "suspicion",
    "drift.": "drift",
    "lockdown.": "lockdown",
    "alert.": "alerts",
    "feedback.": "feedback",
    "login.": "logins",
    "key.": "keys and tokens",
    "token.": "keys and tokens",
    "limit.": "limits",
    "secret.": "secrets",
    "model.": "models",
    "store.": "store",
    "audit.": "audit log",
}
OTHERS = "others"

_MOST_CALLERS = 1_024
_MOST_ADDRESSES = 512
_MOST_NAMES = 64
_MOST_TOLD = 40  # events of one group that are told one by one
_MOST_LABELS = 32  # of one record
_MOST_FACTS = 12
_LONGEST_FACT = 100
_PER_DOUBLING = 4  # bins of latency: they are right to 9 %
_BINS = (-40, 80)  # of 1 microsecond to 18 minutes
_TENTH = {f"0.{tenth}": tenth for tenth in range(TENTHS)}
_SEALED = re.compile(r"(s1\.[A-Za-z0-9_-]{1,64})\.[A-Za-z0-9_-]+")
_SEVERAL = re.compile('[,="]')
_WHO = ("principal", "caller", "client", "who", "subject", "key", "address")
_FAR = 10  # times as long as all the rest is long: so far away is what a wrong clock has said
_FEW = 0.01  # of all records


class Slot:
    """What happened in one slot of time."""

    __slots__ = ("confidence", "failed", "latency", "refused", "requests", "rows")

    def __init__(self) -> None:
        self.requests = self.refused = self.failed = self.rows = 0
        self.latency: dict[int, int] = {}
        self.confidence = [0] * TENTHS

    def add(self, other: "Slot") -> None:
        """Add what happened in another one."""
        self.requests += other.requests
        self.refused += other.refused
        self.failed += other.failed
        self.rows += other.rows
        for number, times in other.latency.items():
            self.latency[number] = self.latency.get(number, 0) + times
        self.confidence = [one + two for one, two in zip(self.confidence, other.confidence, strict=True)]

    def latency_at(self, share: float) -> float | None:
        """The latency in milliseconds within which this share of the requests was answered, to 9 %."""
        left = share * sum(self.latency.values())
        for number, times in sorted(self.latency.items()):
            left -= times
            if left <= 0:
                return float(2 ** ((number + 0.5) / _PER_DOUBLING))
        return None

    @property
    def mean_confidence(self) -> float | None:
        """To half a tenth: the log has tenths."""
        answers = sum(self.confidence)
        if not answers:
            return None
        return sum((tenth + 0.5) / TENTHS * times for tenth, times in enumerate(self.confidence)) / answers


class Totals:
    """Counts records.

    Attributes:
        records: How many, requests and other events.
        events: How many by the name of the event, requests not among them.
        by_rows: Callers by the rows that were answered.
        by_requests: Callers by requests.
        refusals: (guard, rule, status) by requests that were refused.
        addresses: From where what was refused came, by requests.
        routes: By requests.
        labels: Of answers, by rows.
        models: (name, version, digest) by rows.
        suspects: (method, issuer, id) by how often they were suspected; with no id where none was told.
        callers: About how many there were.
        chains: About how many processes wrote.
        width: Length of a slot of time, in seconds.
        slots: What happened, by the number of the slot since 1970.
        far: Records so far from all others in time that they are in no picture.
    """

    def __init__(self) -> None:
        self.records = 0
        self.events = Heaviest[str](_MOST_NAMES)
        self.by_rows = Heaviest[Caller](_MOST_CALLERS)
        self.by_requests = Heaviest[Caller](_MOST_CALLERS)
        self.refusals = Heaviest[tuple[str, str, int]](_MOST_NAMES)
        self.addresses = Heaviest[str](_MOST_ADDRESSES)
        self.routes = Heaviest[tuple[str, str]](_MOST_NAMES)
        self.labels = Heaviest[str](_MOST_NAMES)
        self.models = Heaviest[tuple[str, str, str]](_MOST_NAMES)
        self.suspects = Heaviest[tuple[str, str, str]](_MOST_ADDRESSES)
        self.callers = Distinct()
        self.chains = Distinct()
        self.slots: dict[int, Slot] = {}
        self.far = 0
        self._recorded: dict[int, int] = {}
        self._told: dict[str, list[tuple[float, int, str, str]]] = {}
        self._numbers = itertools.count()
        self._step = 0

    @property
    def width(self) -> int:
        """Length of a slot of time, in seconds."""
        return WIDTHS[self._step]

    def take(self, at: float, event: str, record: dict[str, Any]) -> None:
        """Count a record."""
        self.records += 1
        number = int(at // self.width)
        if number not in self._recorded and len(self._recorded) >= MOST_SLOTS:
            self._coarsen()
            number = int(at // self.width)
        self._recorded[number] = self._recorded.get(number, 0) + 1
        chain = name(record.get("chain"))
        if chain is not None:
            self.chains.add(chain)
        if event == "request":
            self._request(at, number, record)
        else:
            self._event(at, number, name(event) or "", members(record.get("facts")))

    def settle(self) -> None:
        """Make slots as long as the pictures need them, once all is counted."""
        self._leave_out_far()
        while self._recorded and max(self._recorded) - min(self._recorded) >= MOST_SLOTS:
            self._coarsen()

    @property
    def numbers(self) -> range:
        """The slots from the first to the last one."""
        return range(min(self._recorded), max(self._recorded) + 1) if self._recorded else range(0)

    def whole(self, numbers: Iterable[int] | None = None) -> Slot:
        """Slots as one: all of them, or those with these numbers."""
        total = Slot()
        for number in self.numbers if numbers is None else numbers:
            if number in self.slots:
                total.add(self.slots[number])
        return total

    def told(self, group: str) -> list[tuple[float, str, str]]:
        """The latest events of a group: time, event, facts."""
        return [(at, event, facts) for at, _, event, facts in sorted(self._told.get(group, ()))]

    def _request(self, at: float, number: int, record: dict[str, Any]) -> None:
        slot = self.slots.get(number)
        if slot is None:
            slot = self.slots[number] = Slot()
        status, guard = count(record.get("status")), name(record.get("refused_by"))
        is_refused = guard is not None or 400 <= status < 500
        rows = 0 if is_refused or status >= 500 else count(record.get("rows"))
        slot.requests += 1
        slot.refused += is_refused
        slot.failed += status >= 500 and not is_refused
        slot.rows += rows
        took = amount(record.get("latency_ms"))
        if took is not None:
            number_of_bin = _bin(took)
            slot.latency[number_of_bin] = slot.latency.get(number_of_bin, 0) + 1

        caller = _caller(record.get("principal"))
        if caller is not None:
            self.callers.add("\0".join(caller))
        counted: list[Entry] = [self.by_requests.add(caller, number, at)]
        if rows:
            counted.append(self.by_rows.add(caller, number, at, rows))
        route = (name(record.get("method")) or "", name(record.get("route")) or "")
        counted.append(self.routes.add(route, number, at))
        if is_refused:
            self.refusals.add((guard or "", name(record.get("rule")) or "", status), number, at)
            counted.append(self.addresses.add(_unsealed(name(record.get("address")) or ""), number, at))
        model = members(record.get("model"))
        if model and rows:
            counted.append(self.models.add(_model(model), number, at, rows))
        for entry in counted:
            entry.requests += 1
            entry.refused += is_refused
            entry.rows += rows
        self._output(at, number, slot, members(record.get("output")))

    def _output(self, at: float, number: int, slot: Slot, output: dict[str, Any]) -> None:
        for label, times in itertools.islice(members(output.get("labels")).items(), _MOST_LABELS):
            if count(times):
                self.labels.add(name(label) or "", number, at, count(times))
        confidence = members(output.get("confidence"))
        if confidence:
            for edge, tenth in _TENTH.items():
                slot.confidence[tenth] += count(confidence.get(edge))

    def _event(self, at: float, number: int, event: str, facts: dict[str, Any]) -> None:
        self.events.add(event, number, at)
        told = _facts(facts)
        entry = (at, next(self._numbers), event, told)
        latest = self._told.setdefault(group_of(event), [])
        if len(latest) < _MOST_TOLD:
            heapq.heappush(latest, entry)
        elif entry > latest[0]:
            heapq.heapreplace(latest, entry)
        if event == "query.suspected":
            proof = [name(facts.get(member)) or "" for member in ("method", "issuer")]
            suspect = self.suspects.add((proof[0], _unsealed(proof[1]), _who(facts)), number, at)
            suspect.note = told

    def _sketches(self) -> "tuple[Heaviest[Any], ...]":
        return (
            self.events, self.by_rows, self.by_requests, self.refusals, self.addresses, self.routes, self.labels,
            self.models, self.suspects,
        )  # fmt: skip

    def _coarsen(self) -> None:
        factor = WIDTHS[self._step + 1] // self.width
        self._step += 1
        slots: dict[int, Slot] = {}
        for number, slot in self.slots.items():
            slots.setdefault(number // factor, Slot()).add(slot)
        self.slots = slots
        recorded: dict[int, int] = {}
        for number, records in self._recorded.items():
            recorded[number // factor] = recorded.get(number // factor, 0) + records
        self._recorded = recorded
        for sketch in self._sketches():
            sketch.coarsen(factor)

    def _leave_out_far(self) -> None:
        """Leave out of the pictures what a wrong clock has said: little, and far from where most is."""
        clusters: list[list[int]] = []
        for number in sorted(self._recorded):
            if clusters and number - clusters[-1][-1] <= MOST_SLOTS:
                clusters[-1].append(number)
            else:
                clusters.append([number])
        most = max(clusters, key=lambda one: sum(map(self._recorded.__getitem__, one)), default=[0])
        reach = _FAR * max(most[-1] - most[0] + 1, MOST_SLOTS)
        far = [number for number in self._recorded if not most[0] - reach <= number <= most[-1] + reach]
        records = sum(map(self._recorded.__getitem__, far))
        if records < _FEW * self.records:
            self.far = records
            for number in far:
                del self._recorded[number]


def group_of(event: str) -> str:
    """What an event is about."""
    return GROUPS.get(event[: event.find(".") + 1], OTHERS)


def _bin(milliseconds: float) -> int:
    if milliseconds <= 0:
        return _BINS[0]
    return min(max(math.floor(math.log2(milliseconds) * _PER_DOUBLING), _BINS[0]), _BINS[1])


def _caller(principal: object) -> Caller:
    if isinstance(principal, str):
        return ("", "", _unsealed(name(principal) or ""))
    if not isinstance(principal, dict):
        return None
    method, issuer, identity = (name(principal.get(member)) or "" for member in ("method", "issuer", "id"))
    return (method, _unsealed(issuer), _unsealed(identity))


def _unsealed(text: str) -> str:
    """What is sealed is another text each time: only the id of its key stays the same."""
    sealed = _SEALED.fullmatch(text)
    return sealed[1] if sealed is not None else text


def _model(model: dict[str, Any]) -> tuple[str, str, str]:
    version = model.get("version")
    told = str(version) if isinstance(version, int) else name(version) or ""
    return (name(model.get("name")) or "", told, name(model.get("digest")) or "")


def _who(facts: dict[str, Any]) -> str:
    """Whom an event is about."""
    for member in _WHO:
        who = facts.get(member)
        if isinstance(who, dict):
            who = who.get("id")
        if isinstance(who, str) and who:
            return _unsealed(name(who) or "")
    return ""


def _facts(facts: dict[str, Any]) -> str:
    """Facts as one bounded line."""
    told = []
    for fact, value in itertools.islice(facts.items(), _MOST_FACTS):
        if value is None or isinstance(value, dict | list):
            continue
        told.append(f"{_quoted(fact)}={_quoted(_spelled(value))}")
    return ", ".join(told)


def _quoted(text: str) -> str:
    """A part of a line of facts: in quotes where it could be taken for more than one."""
    told = shown(text, _LONGEST_FACT)
    return '"' + told.replace('"', '""') + '"' if _SEVERAL.search(told) else told


def _spelled(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else str(value)
