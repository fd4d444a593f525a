"""Does the model still get what it was made for?"""

import inspect
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
from fastapi import Depends
from numpy.typing import ArrayLike
from starlette.requests import HTTPConnection

from mlguard._guard import Control, Guard, RequestMemory
from mlguard._lookout import Lookout, OwnLock
from mlguard._numbers import is_number, whole
from mlguard._order import judge_all
from mlguard.errors import ConfigurationError
from mlguard.inputs.features import Features
from mlguard.monitoring._drift_thresholds import calibrated
from mlguard.monitoring._drift_watch import KEPT, Finding, Watch
from mlguard.monitoring._histograms import Floats
from mlguard.monitoring.drift_reference import DriftReference, Of, outputs
from mlguard.monitoring.events import record_event
from mlguard.monitoring.measurements import Measurement

logger = logging.getLogger("mlguard")

_LOOK = 1.0  # seconds between two looks of the thread
_FEWEST = 50  # rows of a window
_OUTPUTS = ("entropy", "confidence")


class DriftMonitor(Guard):
    """Watches whether traffic still is what a reference was: an event when it drifts, and one when that is over.

    It refuses nothing. It watches the input's columns, and if the reference has them, the entropy and the confidence
    of the model's scores (or the value of a regression), how often each class comes first, and how long the model
    takes. What it says, it says by events (``mlguard.audit``), so :class:`Alerts` tells of them::

        drift = DriftMonitor(iris, reference=DriftReference.load("drift.json"))

        @app.post("/predict", dependencies=[Depends(drift)])
        @truncate_output(decimals=2)
        def predict(x: Annotated[np.ndarray, Depends(iris)]): ...

    Rows are counted into histograms, and not kept. When ``window`` rows were counted, they are compared with the
    reference, and so are the last 8 windows together, in which smaller changes show: by the population stability index
    and by the statistic of Kolmogorov and Smirnov, column by column. From which distance on it is drift is found by
    drawing windows from the reference itself, again and again, so that traffic that has not changed causes an event in
    at most ``false_alarms`` of the windows, whatever the number of columns. That holds for rows that are independent of
    each other; one caller's rows are often alike, and then it is their number that counts.

    ``drift.found`` has the facts ``monitor``, ``of`` (``input``, ``entropy``, ``confidence``, ``value``, ``classes`` or
    ``latency``), ``feature`` (the index of the column that is furthest off), ``features`` (how many began with it),
    ``measure`` (``psi`` or ``ks``), ``value``, ``threshold``, ``rows`` and ``pace``: ``sudden`` if the distance is more
    like a step from one window to the next, ``slow`` if it is more like a slope. ``drift.over`` has the same facts
    without ``pace``. There is at most one of each in a window.

    It does not see a change of what the right answer is (concept drift) while inputs and scores stay, nor of how
    columns depend on each other, nor an attacker who keeps to the distribution. Whoever sends the most rows decides
    what the traffic is like. It says what is different, not whether the model is worse for it. Scores and latency are
    seen where the endpoint has ``truncate_output``, and not where ``repeat_cache`` answers.

    Windows are those of one process. With several, each has its own, and sees its part of the traffic.

    Args:
        features: What reads the rows: ``Features``, or any dependency that returns an array of shape (rows, columns) or
            (rows, ...).
        reference: What traffic is compared with.
        window: Rows after which a window ends, 50 to 10 000 000.
        seconds: Seconds after which it ends with fewer rows, but at least a quarter of ``window`` and 50. None: only
            rows end it.
        false_alarms: In which part of the windows there may be an event by chance, 0.000001 to 0.2.
        smallest: The ``psi`` below which nothing is drift, however many rows say so. 0.02 is about a shift by a seventh
            of a standard deviation. For ``ks``, what the same shift has.
        name: Names this monitor in events and measurements.
        clock: Seconds, never going backwards; for tests.

    Raises:
        ConfigurationError: When built: a setting that cannot work, or a reference of other columns.
    """

    control: ClassVar[Control] = Control.DETECTION
    reads_body: ClassVar[bool] = True

    def __init__(
        self,
        features: Callable[..., Any] | Guard,
        *,
        reference: DriftReference,
        window: int = 500,
        seconds: float | None = None,
        false_alarms: float = 0.01,
        smallest: float = 0.02,
        name: str = "drift",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(features) or isinstance(features, type):
            raise ConfigurationError("DriftMonitor(features) is a guard such as Features, or another dependency")
        if not isinstance(reference, DriftReference):
            raise ConfigurationError(
                "DriftMonitor(reference=...) is what DriftMonitor.learn or DriftReference.load returns"
            )
        if isinstance(features, Features) and math.prod(features.shape) != reference.columns:
            raise ConfigurationError(
                f"DriftMonitor(reference=...) has {reference.columns} columns, and the rows have "
                f"{math.prod(features.shape)}"
            )
        whole("DriftMonitor(window=...)", window, least=_FEWEST, most=10_000_000)
        if seconds is not None and not (is_number(seconds) and 0 < seconds < math.inf):
            raise ConfigurationError("DriftMonitor(seconds=...) is a number of seconds above 0")
        if not is_number(false_alarms) or not 1e-6 <= false_alarms <= 0.2:
            raise ConfigurationError("DriftMonitor(false_alarms=...) is a part of all windows, from 0.000001 to 0.2")
        if not is_number(smallest) or not 0 <= smallest <= 10:
            raise ConfigurationError("DriftMonitor(smallest=...) is a psi from 0 to 10")
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 64:
            raise ConfigurationError("DriftMonitor(name=...) is a name of up to 64 characters")
        self.source = features if isinstance(features, Guard) else None
        self.name = name
        self._reference = reference
        self._clock = clock
        least = max(_FEWEST, window // 4)
        # One window and those that are kept together are two looks at each thing that is watched.
        rate = false_alarms / len(reference.histograms) / 2
        self._watches: dict[Of, Watch] = {
            of: Watch(
                histograms,
                calibrated(histograms, (least, window, KEPT * window), rate),
                window=window,
                seconds=math.inf if seconds is None else seconds,
                least=least,
                smallest=smallest,
                now=clock(),
            )
            for of, histograms in reference.histograms.items()
        }
        self._judging = OwnLock()
        self._starting = threading.Lock()
        self._unreadable = 0
        self._lookout = Lookout(self, "mlguard-drift")
        self.__signature__ = _signature(features)

    @staticmethod
    def learn(
        rows: ArrayLike, *, scores: ArrayLike | None = None, latency: ArrayLike | None = None, bins: int = 10
    ) -> DriftReference:
        """Learn how data are. See :meth:`DriftReference.learn`."""
        return DriftReference.learn(rows, scores=scores, latency=latency, bins=bins)

    async def __call__(self, conn: HTTPConnection, rows: Any = None) -> Any:
        """Count the rows of this request, once.

        Returns:
            The rows, as ``features`` has returned them.

        Raises:
            MLGuardError: Another guard of the route refuses the request: all are judged first.
        """
        memory = await judge_all(conn)
        return memory.decide(self, partial(self._watch, memory, rows), conn)

    def _watch(self, memory: RequestMemory, rows: Any, _: HTTPConnection) -> Any:
        self._add(rows)
        if len(self._watches) > 1:
            memory.watchers.append(_Answers(self))
        if not self._lookout.is_out:
            self._send_out()
        return rows

    def units(self, value: Any) -> Any:
        """Its rows are those that were read."""
        return value if self.source is None else self.source.units(value)

    def _add(self, rows: Any) -> None:
        """Count rows. Nothing about them is a reason to fail a request."""
        try:
            flat = np.asarray(rows).reshape(len(rows), -1)
            if flat.shape[1] != self._reference.columns:  # one column would be taken for each of them
                raise ValueError
            self._watches["input"].add(flat, self._clock())
        except Exception as error:
            self._note_unreadable(type(error).__name__)

    def _note_unreadable(self, why: str) -> None:
        self._unreadable += 1
        if self._unreadable == 1:
            logger.error("drift monitor %s: what it is given cannot be counted: %s", self.name, why)

    # Off the path of requests -----------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Judge the windows that have ended, now. A thread does so by itself, once a second."""
        with self._judging:
            for of, watch in self._watches.items():
                for finding in watch.judge(self._clock()):
                    self._tell(of, finding)

    def look(self) -> float:
        """What the thread does. Returns seconds until the next look."""
        self.judge()
        return _LOOK

    def restart_in_child(self) -> None:
        """After a fork, in the child: what was counted is the parent's."""
        self._starting = threading.Lock()
        for watch in self._watches.values():
            watch.restart(self._clock())

    def _send_out(self) -> None:
        with self._starting:
            if not self._lookout.is_out:
                self._lookout.send()

    def _tell(self, of: Of, finding: Finding) -> None:
        facts: dict[str, str | int | float | None] = {
            "monitor": self.name,
            "of": self._called(of, finding.column),
            "feature": finding.column if of == "input" else None,
            "features": finding.columns if of == "input" else None,
            "measure": finding.measure,
            "value": round(finding.value, 4),
            "threshold": round(finding.threshold, 4),
            "rows": finding.rows,
        }
        if finding.began:
            record_event("drift.found", **facts, pace=finding.pace)
        else:
            record_event("drift.over", **facts)

    def _called(self, of: Of, column: int) -> str:
        if of != "output":
            return of
        return "value" if self._reference.kind == "values" else _OUTPUTS[column]

    # What is known ----------------------------------------------------------------------------------------------------

    @property
    def drifting(self) -> dict[str, tuple[int, ...]]:
        """What drifts now: the indices of columns, by what they are of. Empty: nothing does."""
        found: dict[str, tuple[int, ...]] = {}
        for of, watch in self._watches.items():
            columns = np.flatnonzero(watch.drifting)
            for column in columns if of == "output" else columns[:1]:
                found[self._called(of, int(column))] = tuple(columns.tolist()) if of == "input" else (0,)
        return found

    def measurements(self) -> Iterable[Measurement]:
        """The distances of the last windows, how many columns drift, and how many windows there were."""
        for of, watch in self._watches.items():
            labels = {"monitor": self.name, "of": of}
            yield Measurement("mlguard_drift_windows", watch.windows, labels, "counter")
            yield Measurement("mlguard_drift_columns", int(watch.drifting.sum()), labels)
            for measure, values in watch.last._asdict().items():
                yield Measurement("mlguard_drift_distance", float(values.max()), {**labels, "measure": measure})
        yield Measurement("mlguard_drift_unreadable", self._unreadable, {"monitor": self.name}, "counter")

    def __repr__(self) -> str:
        return f"DriftMonitor({self.name!r})"


class _Answers:
    """Watches what the model answers to one request.

    Args:
        monitor: Whose reference it is compared with.
    """

    __slots__ = ("_began", "_monitor")

    def __init__(self, monitor: DriftMonitor) -> None:
        self._monitor = monitor
        self._began: int | None = time.perf_counter_ns()

    def __call__(self, scores: Floats) -> None:
        monitor, reference = self._monitor, self._monitor._reference
        began, self._began = self._began, None
        watch = monitor._watches.get("latency")
        if watch is not None and began is not None:  # or it is a further item of a stream
            took = (time.perf_counter_ns() - began) / 1e9
            watch.add(np.array([[took]]), monitor._clock())
        if reference.kind is None:
            return
        if (1 if scores.ndim == 1 else scores.shape[1]) != max(reference.classes, 1):
            monitor._note_unreadable("other classes than in the reference")
            return
        columns, best = outputs(scores, reference.kind)
        monitor._watches["output"].add(columns, monitor._clock())
        if best is not None:
            monitor._watches["classes"].add(best, monitor._clock())


def _signature(features: Callable[..., Any]) -> inspect.Signature:
    """What FastAPI sees: the connection, and the dependency that has the rows."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter("conn", kind, annotation=HTTPConnection),
            inspect.Parameter("rows", kind, annotation=Annotated[Any, Depends(features)]),
        ]
    )
