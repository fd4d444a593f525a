"""The attacker's own model: one hidden layer or none, taught with scores, and with a gradient to climb.

Written out in numpy: scikit-learn's classifiers take no scores as targets, and hand out no gradient of their input.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.attacks.victim import Labels, Rows

_RATE = 0.01  # of Adam, falling to zero
_BATCH = 64


@dataclass(frozen=True)
class Network:
    """A softmax over ``tanh(x @ first + shift) @ last + offset``, or over ``x @ last + offset``.

    Attributes:
        hidden: ``first`` and ``shift``, or nothing for a linear model.
        last: Shape (hidden or columns, classes).
        offset: Shape (classes,).
    """

    hidden: tuple[Rows, Rows] | None
    last: Rows
    offset: Rows

    def scores(self, x: Rows) -> Rows:
        """Probabilities, shape (rows, classes)."""
        return _softmax(self._inner(x) @ self.last + self.offset)

    def gradient(self, x: Rows, labels: Labels) -> Rows:
        """Of the loss for these labels, by the input: the direction in which the model gets them wrong."""
        inner = self._inner(x)
        error = _softmax(inner @ self.last + self.offset)
        error[np.arange(len(x)), labels] -= 1.0
        back: Rows = error @ self.last.T
        return back if self.hidden is None else (back * (1.0 - inner * inner)) @ self.hidden[0].T

    def _inner(self, x: Rows) -> Rows:
        if self.hidden is None:
            return x
        first, shift = self.hidden
        inner: Rows = np.tanh(x @ first + shift)
        return inner


def teach(x: Rows, targets: Rows, *, hidden: int, seed: int, steps: int = 1_500, decay: float = 1e-4) -> Network:
    """Learn scores by cross-entropy, with Adam (Kingma and Ba, 2015).

    Args:
        x: Inputs, shape (rows, columns).
        targets: Scores, shape (rows, classes).
        hidden: The size of the hidden layer. 0: a linear model.
        seed: Of the first weights and the batches.
        steps: Batches of 64 rows.
        decay: Of the weights, as L2 penalty.
    """
    random = np.random.default_rng(seed)
    columns, classes = x.shape[1], targets.shape[1]
    sizes = [columns, hidden, classes] if hidden else [columns, classes]
    weights: list[Rows] = []
    for before, after in pairwise(sizes):
        weights += [random.normal(0, 1 / np.sqrt(before), (before, after)), np.zeros(after)]
    slopes = [np.zeros_like(one) for one in weights]
    squares = [np.zeros_like(one) for one in weights]
    for step in range(steps):
        chosen = random.integers(len(x), size=min(_BATCH, len(x)))
        rate = _RATE * (1 - step / steps) / (1 - 0.9 ** (step + 1))
        unbiased = 1 - 0.999 ** (step + 1)
        for at, by in enumerate(_by_weights(weights, x[chosen], targets[chosen])):
            steepest = by + decay * weights[at]
            slopes[at] += 0.1 * (steepest - slopes[at])
            squares[at] += 0.001 * (steepest**2 - squares[at])
            weights[at] -= rate * slopes[at] / (np.sqrt(squares[at] / unbiased) + 1e-8)
    return Network((weights[0], weights[1]) if hidden else None, weights[-2], weights[-1])


def _by_weights(weights: list[Rows], x: Rows, targets: Rows) -> list[Rows]:
    """The gradient of the mean cross-entropy by each of the weights."""
    inner = np.tanh(x @ weights[0] + weights[1]) if len(weights) == 4 else x
    error = (_softmax(inner @ weights[-2] + weights[-1]) - targets) / len(x)
    last = [inner.T @ error, error.sum(axis=0)]
    if len(weights) == 2:
        return last
    back = (error @ weights[2].T) * (1.0 - inner * inner)
    return [x.T @ back, back.sum(axis=0), *last]


def _softmax(logits: Rows) -> Rows:
    raised: Rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Rows = raised / raised.sum(axis=1, keepdims=True)
    return shares
