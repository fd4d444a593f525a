"""The numbers of others, read so that nothing they do hurts: what they raise, what they make up, how much it is."""

import itertools
import logging
import math
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from mlguard.monitoring._own_metrics import OWN
from mlguard.monitoring._series import label
from mlguard.monitoring.measurements import Measured, Measurement

logger = logging.getLogger("mlguard")

MAX_NAMES = 200
MAX_SERIES = 100  # of one name, for as long as the process lives
_MAX_EACH = 1_000  # measurements of one object
_NAME = re.compile(r"[a-z][a-z0-9_]{2,99}", re.ASCII)
_LABEL_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}", re.ASCII)
_TAKEN = tuple(metric.prometheus_name for metric in OWN)
_TAKEN_ENDS = ("_total", "_created")  # by Prometheus, for counters
_TAKEN_LABELS = frozenset({"le", "quantile", "pid"})  # by Prometheus
_FAILED = "mlguard_measurements_failed"

Labels = tuple[tuple[str, str], ...]
_Place = tuple[str, Labels]


class _Name(NamedTuple):
    """What the first measurement of a name was like, and every other one must be."""

    kind: Literal["counter", "gauge"]
    label_names: tuple[str, ...]
    known: set[Labels]


class Watched:
    """Objects that have measurements.

    Args:
        sources: Those.
    """

    def __init__(self, sources: Iterable[Measured] = ()) -> None:
        self._sources = [*{id(source): source for source in sources}.values()]
        self._names: dict[str, _Name] = {}
        self._counted: dict[int, dict[_Place, float]] = {}  # what each object has counted, when it last said so
        self._failed: Counter[str] = Counter()
        self._lock = threading.Lock()  # an app's tests, or a server of several event loops, may use threads

    def add(self, sources: Iterable[Measured]) -> None:
        """Watch more objects; those that are watched already stay so, once."""
        self._sources = [*{id(source): source for source in [*self._sources, *sources]}.values()]

    def read(self) -> list[Measurement]:
        """All numbers as they are now.

        Of several with one name and the same labels, counters are added up, and of gauges the largest is taken. A
        counter that is not said now stays as it was.
        """
        with self._lock:
            found: dict[_Place, float] = {}
            for source in self._sources:
                for place, value in self._of(source).items():
                    before = found.get(place)
                    found[place] = value if before is None else self._together(place, before, value)
            read = [
                Measurement(name, found[name, labels], dict(labels), self._names[name].kind) for name, labels in found
            ]
            for failing, times in self._failed.items():
                read.append(Measurement(_FAILED, times, {"source": label(failing)}, kind="counter"))
            return read

    def _of(self, source: Measured) -> dict[_Place, float]:
        """The numbers of one object."""
        found: dict[_Place, float] = {}
        try:
            for measurement in itertools.islice(source.measurements(), _MAX_EACH):
                self._take(source, measurement, found)
        except Exception as error:
            self._note_failure(source, error)
        # A sum from which one that fails now were missing would look as if all had begun anew, and be counted twice.
        counted = self._counted.setdefault(id(source), {})
        counted.update({place: value for place, value in found.items() if self._names[place[0]].kind == "counter"})
        return found | {place: value for place, value in counted.items() if place not in found}

    def _together(self, place: _Place, one: float, other: float) -> float:
        return one + other if self._names[place[0]].kind == "counter" else max(one, other)

    def _take(self, source: Measured, measurement: Measurement, found: dict[_Place, float]) -> None:
        """Add a measurement to what was found, if it is one."""
        try:
            place, value = self._checked(measurement)
        except Exception as error:
            self._note_failure(source, error)
            return
        if math.isfinite(value):  # else there is no such number now
            found[place] = self._together(place, found[place], value) if place in found else value

    def _checked(self, measurement: Measurement) -> tuple[_Place, float]:
        """A measurement's name, labels and number.

        Raises:
            ValueError: It is none, or one too many.
        """
        value = float(measurement.value)
        kind = measurement.kind
        if kind not in {"counter", "gauge"} or (kind == "counter" and not 0 <= value < math.inf):
            raise ValueError("it is no number of a counter or gauge")
        name = measurement.name.removesuffix("_total") if kind == "counter" else measurement.name
        labels = _labels(measurement.labels)
        names = tuple(name for name, _ in labels)
        known = self._names.get(name)
        if known is None:
            if len(self._names) >= MAX_NAMES or not _NAME.fullmatch(name) or name.startswith(_TAKEN) or name == _FAILED:
                raise ValueError("it has a name that cannot be")
            if name.endswith(_TAKEN_ENDS):
                raise ValueError("it has the name of a counter")
            known = self._names[name] = _Name(kind, names, set())
        if known.kind != kind or known.label_names != names:
            raise ValueError("its name has other labels, or is of another kind")
        if labels not in known.known:
            if len(known.known) >= MAX_SERIES:
                raise ValueError("its name has too many different labels")
            known.known.add(labels)
        return (name, labels), value

    def _note_failure(self, source: Measured, error: Exception) -> None:
        name = type(source).__name__
        self._failed[name] += 1
        if self._failed[name] == 1:  # it goes on failing each second
            # The text of a foreign exception may hold anything.
            logger.error("%s cannot be measured: %s", label(name), type(error).__name__)


def _labels(labels: Mapping[str, str]) -> Labels:
    names = sorted(labels)
    if any(not _LABEL_NAME.fullmatch(name) or name in _TAKEN_LABELS for name in names):
        raise ValueError("it has a label that cannot be")
    return tuple((name, label(str(labels[name]))) for name in names)
