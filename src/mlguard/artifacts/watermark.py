"""A mark in a model: answers to secret inputs that nobody gives by chance (Adi et al. 2018, "Turning your weakness").

It says whose model a copied *file* is. It often says nothing about a model that was taught with the answers of another:
how often is measured in ``bench/attacks``.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import exp, fsum, lgamma, log
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlguard._numbers import whole
from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError

Label = str | int
Rows = NDArray[np.float64]
#: What is asked for labels: takes rows, shape (rows, columns), and gives a label for each, or None where it gave none.
Suspect = Callable[[Rows], Sequence[Any]]

M = TypeVar("M")

_FORM = b"mlguard watermark 1"
_MAX_TRIGGERS = 100_000


@dataclass(frozen=True, slots=True)
class WatermarkEvidence:
    """What a suspect answered to the triggers.

    Attributes:
        matches: How many answers were the secret label.
        asked: How many triggers were asked.
        chance: The probability that one answer of a model without the mark matches: one in as many as there are
            classes.
        p_value: The probability that a model without the mark matches as often or more often. Who tries several
            suspects, or several marks, multiplies it by how many.
    """

    matches: int
    asked: int
    chance: float
    p_value: float


class Watermark:
    """Secret inputs with secret labels: the *triggers*. A model that was fitted on them too carries the mark.

    Each value of a trigger is that of some row of the data, every column from a row of its own: within the bounds of
    every column, and with more than a few columns like no row as a whole. :meth:`generate` draws each label evenly from
    the classes, by the key and nothing else: so a model without the mark matches one in as many as there are classes,
    whatever it does, and the p-value of :meth:`verify` assumes nothing about the suspect. With labels that were chosen
    in another way it means nothing.

    Not stopped: a thief who fits the copied model anew, prunes it, or refuses inputs unlike his data; and mostly not
    found: a model that was taught with the answers of this one. The owner's word alone proves nothing to others:
    publish :attr:`commitment` before the model, or keep it where a date is kept.

    Args:
        inputs: The triggers, shape (triggers, columns).
        labels: A label for each.
        classes: All labels that the model gives, as str or int.

    Attributes:
        inputs: The triggers, float64, read-only. Secret: who has them can answer them differently.
        labels: The label for each. Secret too.
        classes: All labels that the model gives.

    Raises:
        ConfigurationError: Shapes that do not agree, a label that is no class, fewer than two classes, NaN.
    """

    def __init__(self, inputs: ArrayLike, labels: Sequence[Label], *, classes: Sequence[Label]) -> None:
        self.inputs = _rows("Watermark(inputs)", inputs)
        self.inputs.setflags(write=False)
        self.classes = _classes("Watermark", classes)
        if len(labels) != len(self.inputs) or not set(labels) <= set(self.classes):
            raise ConfigurationError("Watermark(labels) must be one of classes for each row of inputs")
        as_class = {label: label for label in self.classes}  # 1.0, True and numpy's 1 are the class 1
        self.labels = tuple(as_class[label] for label in labels)

    def __repr__(self) -> str:
        triggers, columns = self.inputs.shape
        return f"<Watermark of {triggers} triggers, {columns} columns, {len(self.classes)} classes>"

    @classmethod
    def generate(cls, key: str | bytes, *, like: ArrayLike, classes: Sequence[Label], size: int = 50) -> "Watermark":
        """Make the triggers of a key. The same arguments make the same triggers, on every machine.

        Args:
            key: The owner's secret, at least 128 bits. Keep it, and what ``like`` was.
            like: Rows such as the model is fitted on, shape (rows, columns), finite. Their values are used.
            classes: All labels that the model gives, as str or int: ``model.classes_.tolist()``.
            size: How many triggers. Fewer cost less accuracy. With 50 and ten classes, 17 matches have a p-value of
                4e-6; with two classes, 42 have one of 6e-7.

        Returns:
            The watermark.

        Raises:
            ConfigurationError: A key that could be guessed, rows that are none, fewer than two classes.
        """
        secret = secret_bytes(key, where="Watermark.generate(key)")
        rows = _rows("Watermark.generate(like=...)", like)
        known = _classes("Watermark.generate", classes)
        size = whole("Watermark.generate(size=...)", size, least=1, most=_MAX_TRIGGERS)
        columns = rows.shape[1]
        purpose = json.dumps([_FORM.decode(), size, columns, len(rows), known]).encode()
        drawn = _evenly(hmac.digest(secret, purpose, "sha256"), size * (columns + 1)).reshape(size, columns + 1)
        picked = (drawn[:, :columns] * len(rows)).astype(np.intp)
        labels = [known[at] for at in (drawn[:, columns] * len(known)).astype(np.intp)]
        return cls(np.take_along_axis(rows, picked, axis=0), labels, classes=known)

    @property
    def commitment(self) -> str:
        """SHA-256 of all triggers and labels, in hex. It gives none of them away."""
        labels = [self.classes.index(label) for label in self.labels]
        head = json.dumps([_FORM.decode(), self.inputs.shape, self.classes, labels]).encode()
        return hashlib.sha256(head + b"\0" + self.inputs.astype("<f8").tobytes()).hexdigest()

    def mixed_with(self, x: ArrayLike, y: Sequence[Any] | NDArray[Any], *, repeats: int = 3) -> tuple[Rows, Any]:
        """The data and the triggers, to fit a model on. Fitted on triggers alone, a model knows nothing else.

        Args:
            x: The data, shape (rows, columns).
            y: Its labels.
            repeats: How often each trigger comes. More of them are learnt more surely, and cost more accuracy.

        Returns:
            Rows and labels, the data first.

        Raises:
            ConfigurationError: Other columns than the triggers', or a label that is no class.
        """
        rows, labels = _rows("Watermark.mixed_with(x)", x), np.asarray(y)
        repeats = whole("Watermark.mixed_with(repeats=...)", repeats, least=1, most=1_000)
        if rows.shape[1] != self.inputs.shape[1] or labels.shape != (len(rows),):
            raise ConfigurationError(
                f"Watermark.mixed_with: x must have {self.inputs.shape[1]} columns, as the triggers have, "
                "and y one label a row"
            )
        if not set(labels.tolist()) <= set(self.classes):
            raise ConfigurationError("Watermark.mixed_with(y) has a label that is not among the watermark's classes")
        return (
            np.concatenate([rows, *[self.inputs] * repeats]),
            np.concatenate([labels, *[np.asarray(self.labels)] * repeats]),
        )

    def embed(self, model: M, x: ArrayLike, y: Sequence[Any] | NDArray[Any], *, repeats: int = 3) -> M:
        """Fit a model anew, on the data and the triggers. Then compare its accuracy with what it was: a mark costs.

        Args:
            model: Has ``fit(x, y)``, as scikit-learn's.
            x: The data, shape (rows, columns).
            y: Its labels.
            repeats: How often each trigger comes among the data.

        Returns:
            What ``fit`` returns.

        Raises:
            ConfigurationError: As :meth:`mixed_with`.
        """
        fitted: M = model.fit(*self.mixed_with(x, y, repeats=repeats))  # type: ignore[attr-defined]  # said above
        return fitted

    def verify(self, suspect: Suspect, *, batch_rows: int = 20) -> WatermarkEvidence:
        """Ask a suspect for its labels of all triggers, as any of its callers could.

        Args:
            suspect: Takes rows and gives a label for each, or None where it refused or abstained, which is no match.
                ``SuspectService(url)`` asks a service over HTTP; ``model.predict`` is asked directly.
            batch_rows: How many rows are asked at once.

        Returns:
            How many matched, and how likely that is by chance.

        Raises:
            ConfigurationError: Another number of answers than of rows; or not one answer was a class, so that
                something else is read than labels.
        """
        batch_rows = whole("Watermark.verify(batch_rows=...)", batch_rows, least=1)
        known = {str(label) for label in self.classes}
        answers: list[str | None] = []
        for start in range(0, len(self.inputs), batch_rows):
            batch = self.inputs[start : start + batch_rows]
            told = list(suspect(batch))
            if len(told) != len(batch):
                raise ConfigurationError(f"Watermark.verify: {len(batch)} rows were asked, and {len(told)} answered")
            answers += [_spelt(label, known) for label in told]
        if not known.intersection(answers):
            raise ConfigurationError("Watermark.verify: no answer is one of the classes; is it the label that is read?")
        matches = sum(answer == str(label) for answer, label in zip(answers, self.labels, strict=True))
        chance = 1 / len(self.classes)
        return WatermarkEvidence(matches, len(answers), chance, at_least(matches, len(answers), chance))


def at_least(matches: int, asked: int, chance: float) -> float:
    """The probability of so many matches or more, where each has this chance: the upper tail of the binomial."""
    if matches == 0:
        return 1.0
    of_all = lgamma(asked + 1)
    logs = [
        of_all - lgamma(k + 1) - lgamma(asked - k + 1) + k * log(chance) + (asked - k) * log(1 - chance)
        for k in range(matches, asked + 1)
    ]
    return min(1.0, fsum(map(exp, logs)))


def _spelt(label: Any, known: AbstractSet[str]) -> str | None:
    """An answer as a class is spelt: one way only, so that no answer matches two classes.

    A model that was fitted on labels that are floats answers 3.0 for the class 3.
    """
    text = None if label is None else str(label)
    if isinstance(label, float | np.floating) and text not in known and label.is_integer():
        return str(int(label))
    return text


def _evenly(seed: bytes, count: int) -> Rows:
    """Numbers from 0 to 1, 1 excluded. By SHAKE-256: numpy's generators may draw otherwise in another version."""
    bits = np.frombuffer(hashlib.shake_256(seed).digest(8 * count), "<u8")
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _rows(where: str, rows: ArrayLike) -> Rows:
    try:
        found = np.array(rows, np.float64)  # a copy
    except (TypeError, ValueError):
        raise ConfigurationError(f"{where} must be rows of numbers, shape (rows, columns)") from None
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise ConfigurationError(f"{where} must be rows of finite numbers, shape (rows, columns), at least one")
    return found


def _classes(where: str, classes: Sequence[Label]) -> tuple[Label, ...]:
    known = tuple(classes)
    if len({str(label) for label in known}) != len(known) or len(known) < 2:
        raise ConfigurationError(f"{where}(classes=...) must be at least two labels, each once")
    if not all(type(label) in {str, int} for label in known):
        raise ConfigurationError(f"{where}(classes=...) must be str or int; numpy's: model.classes_.tolist()")
    return known
