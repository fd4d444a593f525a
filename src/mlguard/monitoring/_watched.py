"""The numbers of others, read so that nothing they do hurts: what they raise, what they make up, how much it is."""

import itertools
import logging
import math
import re
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
_TAKEN = frozenset(metric.prometheus_name for metric in OWN)
_TAKEN_LABELS = frozenset({"le", "quantile", "pid"})  # by Prometheus
_FAILED = "mlguard_measurements_failed"

Labels = tuple[tuple[str, str], ...]


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
        self._failed: Counter[str] = Counter()

    def add(self, sources: Iterable[Measured]) -> None:
        """Watch more objects; those that are watched already stay so, once."""
        self._sources = [*{id(source): source for source in [*self._sources, *sources]}.values()]

    def read(self) -> list[Measurement]:
        """All numbers as they are now. Of several with one name and the same labels, counters are added up, and of
        gauges the largest is taken.
        """  # noqa: D205  # one sentence would be longer
        found: dict[tuple[str, Labels], float] = {}
        for source in self._sources:
            try:
                for measurement in itertools.islice(source.measurements(), _MAX_EACH):
                    self._take(measurement, found)
            except Exception as error:
                self._note_failure(source, error)
        read = [
            Measurement(name, value, dict(labels), self._names[name].kind) for (name, labels), value in found.items()
        ]
        failed = [
            Measurement(_FAILED, times, {"source": label(source)}, kind="counter")
            for source, times in self._failed.items()
        ]
        return read + failed

    def _take(self, measurement: Measurement, found: dict[tuple[str, Labels], float]) -> None:
        """Add a measurement to what was found.

        Raises:
            ValueError: It is none, or one too many.
        """
        value = float(measurement.value)
        kind = measurement.kind
        if kind not in {"counter", "gauge"} or not math.isfinite(value) or (kind == "counter" and value < 0):
            raise ValueError("it is no number of a counter or gauge")
        name = measurement.name.removesuffix("_total") if kind == "counter" else measurement.name
        labels = _labels(measurement.labels)
        names = tuple(name for name, _ in labels)
        known = self._names.get(name)
        if known is None:
            if len(self._names) >= MAX_NAMES or not _NAME.fullmatch(name) or name in _TAKEN or name == _FAILED:
                raise ValueError("it has a name that cannot be")
            known = self._names[name] = _Name(kind, names, set())
        if known.kind != kind or known.label_names != names:
            raise ValueError("its name has other labels, or is of another kind")
        if labels not in known.known:
            if len(known.known) >= MAX_SERIES:
                raise ValueError("its name has too many different labels")
            known.known.add(labels)
        before = found.get((name, labels))
        if before is None:
            found[name, labels] = value
        else:
            found[name, labels] = before + value if kind == "counter" else max(before, value)

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
