"""Labels from callers, before a model is trained on them."""

import inspect
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from fastapi import Request
from numpy.typing import ArrayLike, NDArray
from starlette.requests import HTTPConnection

from mlguard._body_forms import BodyForm
from mlguard._guard import Control, Guard, Principal
from mlguard._lookout import OwnLock
from mlguard._numbers import is_number, whole
from mlguard._order import charge_refused_input, once
from mlguard._threads import FewThreads
from mlguard.errors import BudgetExceededError, ConfigurationError, InvalidInputError
from mlguard.inputs.body_formats import require_json
from mlguard.inputs.features import Features
from mlguard.inputs.json_bodies import JSONBodies
from mlguard.inputs.labelled_rows import Classes, LabelledRows, broken_label
from mlguard.monitoring._feedback_caps import FeedbackCaps
from mlguard.monitoring._label_agreement import Codes, ModelOpinion, Neighbours, Predict
from mlguard.monitoring._quarantine_writer import QuarantineWriter
from mlguard.monitoring.events import record_event
from mlguard.monitoring.feedback_quarantine import FeedbackQuarantine
from mlguard.monitoring.measurements import Measurement
from mlguard.monitoring.quarantined_rows import Held, bounded
from mlguard.store import Store
from mlguard.traffic._by import By, describe
from mlguard.traffic._counting import CountingGuard
from mlguard.traffic.ledger import Charge, Registration
from mlguard.traffic.periods import Quota

Doubt = Literal["all", "any"]
#: Why a row is in quarantine.
REASONS = ("model", "neighbours", "model+neighbours", "far", "share")

_EVENT_AGAIN = 3_600.0  # seconds until the same caller is worth another event
_MOST_NOTED = 10_000  # callers


@dataclass(frozen=True, slots=True)
class Feedback:
    """Rows and labels that were accepted, and which were not. Do not tell the caller which: see ``FeedbackGuard``.

    Attributes:
        x: The accepted rows, shape ``(accepted, columns)`` or ``(accepted, *shape)``, in the dtype of the features.
        y: Their labels, shape ``(accepted,)``: texts, or int64.
        quarantined: Of every row that was not accepted, counted from 0 as they were sent: why. ``"model"``,
            ``"neighbours"``, ``"model+neighbours"``, ``"far"`` or ``"share"``.
        rows_sent: How many rows came.
    """

    x: NDArray[Any] = field(repr=False, compare=False)
    y: NDArray[Any] = field(repr=False, compare=False)
    quarantined: Mapping[int, str]
    rows_sent: int


class FeedbackGuard(CountingGuard):
    """Takes rows with labels for retraining, and keeps back those that could poison the model.

    Guards against a caller who sends many wrong labels: ``cap`` bounds the rows that each may send, ``max_share`` the
    part of what is accepted, and a label that neither the model nor similar rows support waits for an operator. So does
    a row that is unlike all of them.

    Not against wrong labels that are plausible: of rows near the border of two classes, of a few rows from each of many
    accounts, or right labels of rows that were chosen to mislead (clean-label poisoning). ``bench/attacks`` measures
    it. Train on what was accepted in such a way that you can go back: keep who sent what.

    ::

        feedback = FeedbackGuard(
            iris, by=caller, labels=CLASSES, predict=model.predict_proba, reference=(X, y), cap="500/day",
            quarantine=FeedbackQuarantine("feedback.db"),
        )

        @app.post("/feedback", status_code=202)
        def take(sent: Annotated[Feedback, Depends(feedback)]):
            append(sent.x, sent.y)

    takes ``{"features": [[5.1, 3.5, 1.4, 0.2]], "labels": ["setosa"]}``: JSON only, with the rows as ``features`` reads
    them, and as many labels. For the label 1, neither ``true`` nor ``1.0`` nor ``"1"`` is taken. What breaks a rule
    costs the caller one row of the cap. Rows have those of ``Features``, and labels:

    ==========  ====================================================
    ``label``   a label is not one of ``labels``, or of another type
    ``labels``  they are no array, or not as many as rows
    ==========  ====================================================

    The answer must not depend on what was accepted, or callers find out what passes: the guard refuses nothing because
    of it, and writes to the quarantine after the answer. Send 202 and no counts.

    Args:
        features: What the rows must be. The rows are squeezed as for the model.
        by: Whose rows they are, as for ``RateLimit``. None is the client address. Somebody with several keys is several
            callers.
        labels: All labels, as texts, whole numbers or booleans. Such as ``model.classes_``.
        predict: The model: takes the rows, and returns floats of shape ``(rows, classes)`` or a label for each row.
            Columns are in the order of the model's ``classes_`` if it is a method of a model that has some, else in
            that of ``labels``. It runs in a thread.
        reference: Rows and labels that were reviewed, such as the first training data. Not what was accepted here: what
            was smuggled in would vouch for the next.
        cap: How many rows a caller may send in each calendar period, accepted or not: ``"500/day"``, as for
            ``QueryBudget``.
        max_share: The part of what is accepted in a period that may come from one caller, above 0, at most 1. What
            is beyond it goes into quarantine.
        share_of_at_least: Rows that the share is taken of while fewer were accepted in the period: so the first callers
            of a day get some in.
        min_support: The least probability by the model, or share of the neighbours, with which a label is supported.
        neighbours: How many of the nearest rows of ``reference`` are asked.
        max_reference: How many rows of ``reference`` are kept, drawn at random. 5 000 of 64 columns take 2.6 MB.
        doubt: With both ``predict`` and ``reference``: ``"all"`` keeps a label back that neither supports. ``"any"``
            keeps one back that one of them does not: more poison, and more of the corrections that a model learns
            from.
        quarantine: Where rows are kept for an operator.
        field: The member of the body that has the labels.
        name: Names the counts, as for ``QueryBudget``: ``mlguard budget`` knows the cap by it.
        store: Where to count. None is the store that all guards share. While one outside this process does not
            answer, nothing is accepted.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: A setting that cannot work. When called: ``predict`` returns something else.
        UnsupportedMediaTypeError: The body is not JSON (415).
        InvalidInputError: A rule of rows is broken, or one of labels (422): ``label`` is none, or ``labels`` are not as
            many as rows.
        BudgetExceededError: The caller has sent as many rows as may be, or would with these (429).
        OverloadedError: Too much feedback waits to be judged (503).
        UnavailableError: The store does not answer (503).
    """

    control = Control.INPUT_VALIDATION
    reads_body: ClassVar[bool] = True

    def __init__(
        self,
        features: Features,
        *,
        labels: Iterable[Any],
        quarantine: FeedbackQuarantine,
        by: Callable[..., Any] | Guard | None = None,
        predict: Predict | None = None,
        reference: tuple[ArrayLike, ArrayLike] | None = None,
        cap: str = "500/day",
        max_share: float = 0.05,
        share_of_at_least: int = 1_000,
        min_support: float = 0.2,
        neighbours: int = 10,
        max_reference: int = 5_000,
        doubt: Doubt = "all",
        field: str = "labels",
        name: str | None = None,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        where = "FeedbackGuard"
        if not isinstance(features, Features):
            raise ConfigurationError(f"{where}(features) is the Features(...) that the model's own input has")
        if not isinstance(quarantine, FeedbackQuarantine):
            raise ConfigurationError(f"{where}(quarantine=...) is a FeedbackQuarantine(...)")
        if predict is None and reference is None:
            raise ConfigurationError(
                f"{where} has nothing to compare labels with: give it predict=, reference= or both"
            )
        if doubt not in get_args(Doubt):
            raise ConfigurationError(f'{where}(doubt=...) is "all" or "any"')
        quota = self.quota = Quota.parse(cap, where=f"{where}(cap=...)")
        least = whole(f"{where}(share_of_at_least=...)", share_of_at_least, least=1)
        share = _part("max_share", max_share)
        if share * least < 1:
            raise ConfigurationError(
                f"{where}: max_share of share_of_at_least is not one row, so nothing would be accepted"
            )
        self._by = By(by, where=where)
        super().__init__(
            name=name,
            otherwise=f"feedback {quota} by {self._by.label}",
            store=store,
            on_store_error="refuse",
            local_share=1.0,
        )
        self.statuses = (413, 415, 422, 429, 503)
        self._features = features
        self._classes = Classes(labels, where=where)
        self._form = LabelledRows(features.rules, features.field, field, self._classes)
        self._bodies = JSONBodies({"json": self._form})
        self.body_form = BodyForm("rows and labels", frozenset({features.field, field}))
        self._model = None if predict is None else ModelOpinion(predict, self._classes, where=where)
        self._neighbours = None
        if reference is not None:
            self._neighbours = Neighbours(
                *_pair(reference),
                classes=self._classes,
                rules=features.rules,
                count=whole(f"{where}(neighbours=...)", neighbours, least=1, most=1_000),
                max_rows=whole(f"{where}(max_reference=...)", max_reference, least=2 * neighbours, most=100_000),
                where=where,
            )
        self._min_support = _part("min_support", min_support)
        self._doubt = doubt
        self._caps = FeedbackCaps(
            self.name + self._own, quota, max_share=share, share_of_at_least=least, counts=self._counts
        )
        self._registration = Registration(self.store, self.name, {"caller": str(quota)})
        self._clock = clock
        self.quarantine = quarantine
        quarantine.bind(shape=features.shape, dtype=str(features.rules.dtype), labels=self._classes.labels)
        self._writer = QuarantineWriter(quarantine.add)
        self._threads = FewThreads("feedback", where=where, concurrency=1, max_waiting=64)
        self._lock = OwnLock()  # event loops in several threads may share a guard
        self._noted: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()
        self._accepted = 0
        self._quarantined = dict.fromkeys(REASONS, 0)
        request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)
        self.__signature__ = inspect.Signature([request, *self._by.parameters()])

    async def __call__(self, request: Request, who: Any = None) -> Feedback:
        """The rows and labels in the request's body that are accepted. The others go into quarantine."""
        return await once(request, self, partial(self._judge, request, who))

    async def _judge(self, request: Request, who: Any) -> Feedback:
        caller = self._by.caller(request, who)
        identity = self._by.identity(caller)
        require_json(request.scope["headers"])
        body = await request.body()
        now = self._clock()  # only here: who sends a body slowly has no room of a day that is over
        try:
            x, codes = self._read(body)
        except InvalidInputError:
            await charge_refused_input(request, self)
            await self._charge(caller, identity, 1, now)
            raise
        await self._charge(caller, identity, len(x), now)
        async with self._threads.turn() as turn:
            doubts = await turn.run(partial(self._doubts, x, codes))
        trusted = [row for row in range(len(x)) if row not in doubts]
        room = await self._caps.admit(identity, len(trusted), now)
        for row in trusted[room:]:
            doubts[row] = "share"
        kept = trusted[:room]
        y = self._classes.of(codes)
        if doubts:
            who = _named(identity)
            self._writer.put([Held(who, reason, y[row].item(), x[row].copy()) for row, reason in doubts.items()])
            self._note(caller, identity, doubts, now)
        with self._lock:
            self._accepted += len(kept)
        return Feedback(x[kept], y[kept], doubts, len(x))

    def _read(self, body: bytes) -> tuple[NDArray[Any], Codes]:
        sent = self._bodies.sent(body)
        x = self._features.finished(sent)
        if sent.labels is None or len(sent.labels) != len(x):
            raise broken_label("labels")
        return x, sent.labels

    async def _charge(self, caller: Any, identity: tuple[str, ...], rows: int, now: float) -> None:
        """Charge rows to the caller's cap.

        Raises:
            BudgetExceededError: There is no room for them (429).
        """
        if not self._registration.is_done:
            await self._registration.make()
        charge = await self._caps.charge(identity, rows, now)
        if not charge.spending.admitted:
            raise self._refusal(caller, rows, charge, now)

    def _refusal(self, caller: Any, rows: int, charge: Charge, now: float) -> BudgetExceededError:
        reason = f"{self.name}: {rows} rows are more than the cap{describe(caller)}"
        if rows > self.quota.limit:
            return BudgetExceededError(
                reason, detail="These are more rows than a whole period has room for. Send fewer."
            )
        wait = max(1, math.ceil(charge.period.ends.timestamp() - now))
        return BudgetExceededError(reason, headers={"Retry-After": str(wait)})

    def _doubts(self, x: NDArray[Any], codes: Codes) -> dict[int, str]:
        """Which rows are not to be believed, and why."""
        nobody = np.zeros(len(x), np.bool_)
        model = neighbours = far = nobody
        if self._model is not None:
            model = ~(self._model.support(x.copy(), codes) >= self._min_support)  # NaN supports nothing
        if self._neighbours is not None:
            support, far = self._neighbours.ask(x, codes)
            neighbours = support < self._min_support
        both = self._model is not None and self._neighbours is not None
        doubted = model & neighbours if both and self._doubt == "all" else model | neighbours
        return {
            row: "far" if far[row] else "+".join(["model"] * bool(model[row]) + ["neighbours"] * bool(neighbours[row]))
            for row in np.flatnonzero(doubted | far).tolist()
        }

    # What is kept back --------------------------------------------------------------------------------------------

    def _note(self, caller: Any, identity: tuple[str, ...], doubts: Mapping[int, str], now: float) -> None:
        """Count, and record an event: of each caller once an hour. The next one says how many rows came meanwhile."""
        with self._lock:
            for reason in doubts.values():
                self._quarantined[reason] += 1
            before, untold = self._noted.pop(identity, (-math.inf, 0))
            rows = len(doubts) + untold
            if 0 <= now - before < _EVENT_AGAIN:
                self._noted[identity] = before, rows
                return
            self._noted[identity] = now, 0
            if len(self._noted) > _MOST_NOTED:
                self._noted.popitem(last=False)
        # A function may name callers by something that is not the log's business.
        named = {"method": "name"}
        if isinstance(caller, Principal):
            issuer = {"issuer": caller.issuer} if caller.issuer else {}
            named = {"method": caller.method, **issuer, "caller": caller.id}
        record_event("feedback.quarantined", **named, rows=rows)

    def flush(self) -> None:
        """Wait until what was put into quarantine so far is in the file. For tests, and for the end of a service."""
        self._writer.flush()

    def measurements(self) -> Iterable[Measurement]:
        """How many rows this process has accepted and kept back, and how many found no room in quarantine."""
        yield Measurement("mlguard_feedback_accepted", self._accepted, {}, "counter")
        for reason, rows in self._quarantined.items():
            yield Measurement("mlguard_feedback_quarantined", rows, {"reason": reason}, "counter")
        yield Measurement("mlguard_feedback_dropped", self._writer.dropped, {}, "counter")

    # Other guards -------------------------------------------------------------------------------------------------

    async def charge_refused(self, conn: HTTPConnection, **principals: Any) -> None:
        """Nothing: it charges for its own body alone."""

    def units(self, value: Any) -> int:
        """A budget is charged for what was sent, or its account would tell what was accepted."""
        rows: int = value.rows_sent
        return rows

    def openapi_body(self) -> dict[str, Any]:
        """The OpenAPI request body. It tells no label."""
        return {"required": True, "content": {"application/json": self._bodies.openapi()}}


def _part(setting: str, value: object) -> float:
    if not is_number(value) or not 0 < value <= 1:
        raise ConfigurationError(f"FeedbackGuard({setting}=...) is a part: above 0, at most 1")
    return value


def _pair(reference: object) -> tuple[Any, Any]:
    if not isinstance(reference, tuple) or len(reference) != 2:
        raise ConfigurationError("FeedbackGuard(reference=...) is a pair: rows, and a label for each")
    return reference


def _named(identity: tuple[str, ...]) -> tuple[str, str, str]:
    """Who it is, as the file can hold it: method, issuer, id."""
    method, issuer, id_ = identity[1:] if identity[0] == "principal" else ("name", "", identity[1])
    return method, bounded(issuer), bounded(id_)
