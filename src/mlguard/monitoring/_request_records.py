"""What is recorded of a request: noted in a few words while it runs, and brought into form by the thread that writes.

The thread may come to it after the request is over, so nothing that is noted here leads to the request's body, its
scope or its exceptions: thousands of records may wait.
"""

import hmac
from collections import Counter
from collections.abc import Callable, ItemsView, Iterator, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from mlguard._guard import Guard, Principal
from mlguard.outputs._canonical import NotCanonicalError, canonical
from mlguard.outputs._endpoint import policies_of

_MAX_PATH = 128  # characters
_MAX_METHOD = 16
_MAX_LABELS = 20
_MORE = "..."
_LARGEST_KEPT = 64  # scores; more are counted at once
_MOST_KEPT = 4
_LARGEST_COPIED = 1_024  # bytes of an array that waits for its digest
_NUMBERS = frozenset(map(np.dtype, "?bBhHiIlLqQefd"))  # of arrays of these there is a digest in any case
_LARGEST_JSON = 1_048_576  # bytes that are parsed to bring them into one form

#: The scheme that is named beside a digest.
_SCHEME = "hmac-sha256:"


_NOTHING: Counter[int] = Counter()

Digest = bytes | None


class RequestRecord(Mapping[str, Any]):
    """One request, as an event for an audit log. It is read as a mapping, which is made when it is first looked into.

    Attributes:
        method: What the caller has sent as the method, or ``WEBSOCKET``.
        status: Of the answer that was sent. None: none was.
        took: Nanoseconds.
        ended: How it ended, where that is not with a whole answer.
        refusal: Guard, rule and reason.
    """

    # Most are set late or never, so that they cost a request nothing as long as they are as they are here.
    _made: dict[str, Any] | None = None
    request_id = ""
    trace_id: int | str = 0
    principal: Principal | None = None
    address: Callable[[], IPv4Address | IPv6Address | None] | None = None
    route: Any = None
    prefix = ""
    path: str | None = None
    status: int | None = None
    guards: tuple[Guard, ...] = ()
    refusal: tuple[str | None, str | None, str | None] = (None, None, None)
    rows: int | None = None
    budget_left: Mapping[str, float] | None = None
    model: Any = None
    input: "Digest | Callable[[], Digest]" = None
    outputs: "Outputs | None" = None
    is_closed = False
    took = 0
    ended: str | None = None
    close_code: int | None = None

    def __init__(self, method: str) -> None:
        self.method = method

    def look(self, scores: NDArray[Any]) -> None:
        """Note the scores that the model has given."""
        if not self.is_closed:  # or the thread may be reading
            if self.outputs is None:
                self.outputs = Outputs()
            self.outputs.add(scores)

    def __getitem__(self, name: str) -> Any:
        """One member of the event."""
        return self._members()[name]

    def __iter__(self) -> Iterator[str]:
        """The names of its members."""
        return iter(self._members())

    def __len__(self) -> int:
        """How many members it has."""
        return len(self._members())

    def items(self) -> ItemsView[str, Any]:
        """All of them at once."""
        return self._members().items()

    def _members(self) -> dict[str, Any]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> dict[str, Any]:
        refused_by, rule, reason = self.refusal
        digest = self.input() if callable(self.input) else self.input
        address = None if self.address is None else self.address()
        who = self.principal
        members: dict[str, Any] = {
            "event": "request",
            "request_id": self.request_id,
            "principal": None if who is None else {"method": who.method, "issuer": who.issuer or "", "id": who.id},
            "address": None if address is None else str(address),
            "method": _shown(self.method, _MAX_METHOD),
            "route": None if self.path is not None else self.prefix + _template(self.route),
            "status": self.status,
            "guards": [type(guard).__name__ for guard in dict.fromkeys(guard.whole for guard in self.guards)],
            "refused_by": refused_by,
            "rule": rule,
            "reason": reason,
            "rows": self.rows,
            "budget_left": dict(self.budget_left or {}),
            "model": model_facts(self.model),
            "input": None if digest is None else _SCHEME + digest.hex(),
            "output": None if self.outputs is None else self.outputs.summary(_labels(self.route)),
            "latency_ms": round(self.took / 1e6, 3),
        }
        if self.trace_id:
            members["trace_id"] = self.trace_id if isinstance(self.trace_id, str) else f"{self.trace_id:032x}"
        if self.path is not None:  # which no route of the app has, so it is the caller's text
            members["path"] = _shown(self.path, _MAX_PATH)
        if self.ended is not None:
            members["ended"] = self.ended
        if self.close_code is not None:
            members["close_code"] = self.close_code
        return members


class Outputs:
    """Which labels a model has given, and how sure it was: counts, and no scores."""

    __slots__ = ("_confidence", "_kept", "_labels")

    def __init__(self) -> None:
        self._labels: Counter[int] | None = None  # and so is the other, as one costs more than most scores
        self._confidence: Counter[int] = _NOTHING
        self._kept: list[list[list[float]]] = []

    def add(self, scores: NDArray[Any]) -> None:
        """Add scores of shape (rows, classes). Those of another shape are numbers, of which none is a label."""
        if scores.ndim != 2 or not scores.size:
            return
        if scores.size <= _LARGEST_KEPT and len(self._kept) < _MOST_KEPT:
            self._kept.append(scores.tolist())  # the model may use its array again
        else:
            self._count(scores)

    def summary(self, labels: tuple[str | int, ...] | None) -> dict[str, Any] | None:
        """Counts by label and by tenth of the confidence; None where there were no classes.

        Args:
            labels: The names of the classes, if they have any.
        """
        for row in chain.from_iterable(self._kept):
            self._count_one(row)
        self._kept.clear()
        if self._labels is None:
            return None
        frequent = self._labels.most_common()
        counts = {_name(label, labels): count for label, count in frequent[:_MAX_LABELS]}
        if len(frequent) > _MAX_LABELS:
            counts[_MORE] = sum(count for _, count in frequent[_MAX_LABELS:])
        return {"labels": counts, "confidence": {f"0.{tenth}": n for tenth, n in sorted(self._confidence.items())}}

    def _count_one(self, scores: list[float]) -> None:
        if self._labels is None:
            self._labels, self._confidence = Counter(), Counter()
        best = max(scores)
        self._labels[scores.index(best)] += 1
        if 0 <= best <= 1:
            self._confidence[min(int(best * 10), 9)] += 1

    def _count(self, scores: NDArray[Any]) -> None:
        if self._labels is None:
            self._labels, self._confidence = Counter(), Counter()
        chosen, times = np.unique(scores.argmax(axis=1), return_counts=True)
        self._labels.update(dict(zip(chosen.tolist(), times.tolist(), strict=True)))
        best = scores.max(axis=1)
        probable = best[(best >= 0) & (best <= 1)]  # others are no probabilities
        tenths, times = np.unique(np.minimum((probable * 10).astype(int), 9), return_counts=True)
        self._confidence.update(dict(zip(tenths.tolist(), times.tolist(), strict=True)))


class InputDigest:
    """Digests of what models are asked: the same for the same question, and nothing that could be guessed from it.

    Args:
        key: The secret.
    """

    def __init__(self, key: bytes) -> None:
        # Copied for each digest: hmac.digest lets go of the interpreter's lock, and other threads take it.
        self._keyed = hmac.new(key, digestmod="sha256")

    def of_value(self, value: Any) -> Digest:
        """Of what a guard has read, with its dtype and shape; None of what is told by more than what it holds."""
        try:
            return self._of(b"value:" + canonical(value))
        except NotCanonicalError:
            return None

    def of_value_later(self, value: Any) -> Digest | Callable[[], Digest]:
        """The same, of a small array only when it is called for: by the thread that writes."""
        if type(value) is np.ndarray and value.nbytes <= _LARGEST_COPIED and value.dtype in _NUMBERS:
            return partial(self.of_value, value.copy())  # the model may use its array again
        return self.of_value(value)

    def of_body(self, body: bytes) -> bytes:
        """Of a body: JSON in one form, with its members sorted; anything else as it is."""
        if len(body) <= _LARGEST_JSON:
            try:
                return self._of(b"json:" + orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS))
            except (orjson.JSONDecodeError, orjson.JSONEncodeError):
                pass
        return self._of(b"bytes:" + body)

    def _of(self, content: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(content)
        return mac.digest()


def _template(route: Any) -> str:
    return str(getattr(route, "path_format", None) or getattr(route, "path", ""))


def _labels(route: Any) -> tuple[str | int, ...] | None:
    policies = policies_of(getattr(route, "endpoint", None))
    return None if policies is None else policies.default.scores.labels


def _name(label: int, labels: tuple[str | int, ...] | None) -> str:
    return str(labels[label]) if labels is not None and label < len(labels) else str(label)


def model_facts(version: Any) -> dict[str, Any] | None:
    """What a record says of a model: of what has these as members or as attributes."""
    if version is None:
        return None
    read: Callable[[str], Any] = version.get if isinstance(version, Mapping) else partial(_attribute, version)
    return {name: read(name) for name in ("name", "version", "digest")}


def _attribute(holder: Any, name: str) -> Any:
    return getattr(holder, name, None)


def _shown(text: str, most: int) -> str:
    """What a caller has chosen, as one word that can be printed."""
    return ascii(text[:most])[1:-1]
