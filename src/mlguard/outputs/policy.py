"""What may leave of an answer, as a value that can be named, compared, and kept beside a model: ``OutputPolicy``."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlguard.errors import ConfigurationError
from mlguard.outputs.digits import AsTheyAre, Decimals, Digits, Significant

#: Where nothing else is said.
_DECIMALS = 2

BinsAs = Literal["midpoint", "edges"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputPolicy:
    """How much of a model's output goes out. Frozen, compared by value, and without any state.

    Two things are decided. *Every float in the answer*, wherever it is, keeps ``decimals`` or ``significant`` digits,
    or all of them (``exact``). And *the scores*, the field that ``truncate_output(scores=...)`` names, may be replaced
    by less: by ``top_k``, ``label_only``, ``confidence`` or ``bins``, of which one may be chosen.

    NaN and infinities never leave, under any policy.

    Args:
        decimals: Decimals that stay of every float, 0 to 15. 2 where none of the three is given. Rounded scores still
            add up to what they did, and the best class stays the best; each is less than two units of the last decimal
            from where it was.
        significant: Significant digits that stay of every float, 1 to 15, in the place of ``decimals``: for regression.
            Each number is rounded by itself, so class scores would not add up: not with ``top_k`` and
            ``min_confidence``.
        exact: Numbers leave as they are.
        top_k: Replace each row by its best classes, ``[{"label": ..., "score": ...}, ...]`` in falling order of the
            score as it leaves (the lower index first).
        rest: With ``top_k``: the label of one more entry, which has what the scores of all other classes add up to, so
            that the row adds up. Only for scores of which none is negative.
        label_only: Replace each row by its best label, without a score.
        confidence: Replace each row by its best label with this score, whatever the model said:
            ``[{"label": ..., "score": confidence}]``. For clients that demand a score. 0 to 1.
        min_confidence: Replace a row whose best score is lower than this, as it leaves, by ``abstain``. Above 0 and up
            to 1, and only for scores from 0 to 1. It is there so that nobody acts on a guess, and is itself a score of
            one bit: with a label alone, it helped membership inference.
        abstain: What stands for a row that is not sure enough: text, or None for null.
        bins: Edges, in rising order, two or more: replace each number of the scores by the bin that it falls into, for
            regression. An edge belongs to the bin above it, the last one to the last bin; a number outside counts into
            the nearest bin.
        bins_as: What stands for a bin: its ``"midpoint"``, or its ``"edges"`` as ``[low, high]``.

    Raises:
        ConfigurationError: A setting that cannot work, or two that exclude each other.
    """

    decimals: int | None = None
    significant: int | None = None
    exact: bool = False
    top_k: int | None = None
    rest: str | None = None
    label_only: bool = False
    confidence: float | None = None
    min_confidence: float | None = None
    abstain: str | None = "abstain"
    bins: Sequence[float] | NDArray[np.floating[Any]] | None = None
    bins_as: BinsAs = "midpoint"

    def __post_init__(self) -> None:
        """Check every setting, and put the default decimals in."""
        self._check_digits()
        self._check_classes()
        self._check_confidence()
        if self.bins is not None:
            object.__setattr__(self, "bins", _edges(self.bins))
        if self.bins_as not in {"midpoint", "edges"}:
            raise ConfigurationError('bins_as must be "midpoint" or "edges"')
        if self.bins is None and self.bins_as != "midpoint":
            raise ConfigurationError("bins_as says how bins are shown: give the bins too")

    def _check_digits(self) -> None:
        if type(self.exact) is not bool:
            raise ConfigurationError("exact must be True or False")
        given = [self.decimals is not None, self.significant is not None, self.exact]
        if sum(given) > 1:
            raise ConfigurationError("decimals, significant and exact exclude each other: choose one of them")
        if not any(given):
            object.__setattr__(self, "decimals", _DECIMALS)
        if self.decimals is not None and (type(self.decimals) is not int or not 0 <= self.decimals <= 15):
            raise ConfigurationError("decimals must be an integer from 0 to 15")
        if self.significant is not None and (type(self.significant) is not int or not 1 <= self.significant <= 15):
            raise ConfigurationError("significant must be an integer from 1 to 15, or None")
        if self.significant is not None and (self.top_k is not None or self.min_confidence is not None):
            raise ConfigurationError("significant digits are for regression: for scores of classes, use decimals")

    def _check_classes(self) -> None:
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            raise ConfigurationError("top_k must be a positive integer, or None for every class")
        if type(self.label_only) is not bool:
            raise ConfigurationError("label_only must be True or False")
        if self.label_only and self.top_k is not None:
            raise ConfigurationError("label_only sends no scores and top_k sends some: choose one of them")
        if self.rest is not None and (type(self.rest) is not str or not self.rest):
            raise ConfigurationError("rest must be a label for the classes that top_k leaves out, or None")
        if self.rest is not None and self.top_k is None:
            raise ConfigurationError("rest stands for the classes that top_k leaves out: give top_k too")
        chosen = [self.top_k is not None, self.label_only, self.confidence is not None, self.bins is not None]
        if sum(chosen) > 1:
            raise ConfigurationError("top_k, label_only, confidence and bins exclude each other: choose one of them")

    def _check_confidence(self) -> None:
        if self.confidence is not None and (type(self.confidence) not in {int, float} or not 0 <= self.confidence <= 1):
            raise ConfigurationError("confidence must be a number from 0 to 1, or None")
        if self.min_confidence is not None and (
            type(self.min_confidence) not in {int, float} or not 0 < self.min_confidence <= 1
        ):
            raise ConfigurationError("min_confidence must be a number above 0 and up to 1, or None")
        for name in ("confidence", "min_confidence"):  # equal policies have equal fingerprints, 1 or 1.0
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.min_confidence is not None and self.bins is not None:
            raise ConfigurationError("min_confidence is for scores of classes and bins are for regression: choose one")
        if self.abstain is not None and (type(self.abstain) is not str or not self.abstain):
            raise ConfigurationError("abstain must be text, or None for null")
        if self.rest is not None and self.min_confidence is not None and self.rest == self.abstain:
            raise ConfigurationError("rest and abstain must differ, or a caller cannot tell them apart")

    @classmethod
    def named(cls, name: str) -> "OutputPolicy":
        """A preset.

        Args:
            name: ``"balanced"``: all classes with two decimals. ``"private"``: the best label, and every other float as
                a whole number. ``"open"``: numbers as they are, for callers who may have the model anyway.

        Raises:
            ConfigurationError: There is none of that name.
        """
        if name not in PRESETS:
            raise ConfigurationError(f"no such preset; there are {', '.join(map(repr, PRESETS))}")
        return PRESETS[name]

    @property
    def digits(self) -> Digits:
        """What is left of a float."""
        if self.exact:
            return AsTheyAre()
        return Significant(self.significant) if self.significant is not None else Decimals(self.decimals or 0)

    @property
    def replaces_rows(self) -> bool:
        """Whether something else than the scores takes their place."""
        return self.needs_classes or self.bins is not None

    @property
    def needs_classes(self) -> bool:
        """Whether the scores must be those of classes."""
        return (
            self.label_only or self.top_k is not None or self.confidence is not None or self.min_confidence is not None
        )

    @property
    def words(self) -> tuple[str, ...]:
        """The texts that stand in the place of a label, and so can be none."""
        abstain = self.abstain if self.min_confidence is not None else None
        return tuple(word for word in (self.rest, abstain) if word is not None)

    @property
    def openness(self) -> int:
        """0: no score leaves, 1: less than all of each score, 2: scores as they are."""
        if self.label_only or self.confidence is not None:
            return 0
        return 2 if self.exact and self.bins is None else 1

    def shows_less_than(self, other: "OutputPolicy") -> bool:
        """Whether it plainly does: no score, fewer digits or fewer classes, and nothing that tells more."""
        if self.openness != other.openness:
            return self.openness < other.openness
        if (self.bins, self.min_confidence) != (other.bins, other.min_confidence):
            return False  # nobody could say
        classes = self.top_k or math.inf, other.top_k or math.inf
        settings = (self.decimals, other.decimals), (self.significant, other.significant), classes
        pairs = [(mine, others) for mine, others in settings if mine is not None and others is not None]
        return all(mine <= others for mine, others in pairs) and any(mine < others for mine, others in pairs)

    def fingerprint(self) -> str:
        """All settings in one line of text, the same in every process and release: a key for what depends on them."""
        settings = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return f"OutputPolicy/1({', '.join(f'{name}={value!r}' for name, value in settings)})"


def _edges(bins: Any) -> tuple[float, ...]:
    if isinstance(bins, np.ndarray):
        bins = bins.tolist()
    edges = [*bins] if isinstance(bins, Sequence) and not isinstance(bins, str | bytes) else []
    right = all(type(edge) in {int, float} and math.isfinite(edge) for edge in edges)
    if not right or len(edges) < 2 or any(low >= high for low, high in itertools.pairwise(edges)):
        raise ConfigurationError("bins must be two or more edges, finite numbers in rising order, such as [0, 10, 100]")
    return tuple(map(float, edges))


#: Policies by what they are for.
PRESETS: Mapping[str, OutputPolicy] = MappingProxyType(
    {
        # What most clients can work with: all classes, two decimals.
        "balanced": OutputPolicy(decimals=2),
        # The best label and nothing else: every other float is a whole number.
        "private": OutputPolicy(label_only=True, decimals=0),
        # For callers who may have the model anyway: numbers as they are.
        "open": OutputPolicy(exact=True),
    }
)


def policy_of(policy: OutputPolicy | str, where: str) -> OutputPolicy:
    """A policy, or the preset of that name.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(policy, OutputPolicy):
        return policy
    if not isinstance(policy, str) or policy not in PRESETS:
        raise ConfigurationError(
            f"{where} must be an OutputPolicy or one of the presets {', '.join(map(repr, PRESETS))}"
        )
    return OutputPolicy.named(policy)
