"""A linear model from its answers: equations (Tramèr et al., 2016), and halving against rounding and bare labels.

The logarithm of the odds of a logistic regression is ``w . x + b``: each exact answer is an equation, and as many as
there are unknowns give the model away. Rounding makes them inexact. Then the attacker asks where an inexact answer
tells most, close to the boundary, and lets the errors cancel out; or looks for the very points where the rounded answer
changes, which are exact again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.attacks.models import tumours
from bench.attacks.results import Columns, Measures
from bench.attacks.victim import (
    ALL_DIGITS,
    FRESH_NOISE,
    HEAVY_NOISE,
    LABEL_ONLY,
    LIGHT_NOISE,
    ONE_DECIMAL,
    ROUNDED_NOISE,
    THREE_DECIMALS,
    TWO_DECIMALS,
    Defence,
    Rows,
    Victim,
)

TABLES = {
    "solving": Columns("Equation solving, error of the weights", ("guard", "queries"), ("error",), "median"),
    "halving": Columns("Points where the answer changes", ("guard", "halvings"), ("queries", "error"), "median"),
    "averaging": Columns("62 inputs, asked 500 times each", ("guard", "jitter"), ("queries", "error"), "median"),
}

SOLVED = (ALL_DIGITS, THREE_DECIMALS, TWO_DECIMALS, ONE_DECIMAL, LIGHT_NOISE, HEAVY_NOISE)

_QUERIES = (31, 62, 310, 3_100)
_HALVINGS = (10, 20, 30, 40, 50)  # as many as a double has bits, or so
_AVERAGED = (  # and how far the repeats lie from each other
    (FRESH_NOISE, 0.0),
    (LIGHT_NOISE, 0.0),
    (LIGHT_NOISE, 1e-6),
    (ROUNDED_NOISE, 1e-6),
    (ROUNDED_NOISE, 1e-2),
)

DEFENCES = tuple(dict.fromkeys([*SOLVED, LABEL_ONLY, *(defence for defence, _ in _AVERAGED)]))

Test = Callable[[Rows], NDArray[np.bool_]]

_FURTHEST = 9.0  # from the origin in each feature: within what the service takes


def run(seed: int, *, quick: bool) -> dict[str, Measures]:
    """All of it, on one split of the data."""
    task = tumours(seed)
    true = np.append(task.model.coef_[0], task.model.intercept_[0])
    columns = len(true) - 1

    def victim(defence: Defence) -> Victim:
        return Victim(task.model, defence, columns=columns, low=-10.0, high=10.0, seed=seed)

    solved: Measures = {}
    for defence in SOLVED:
        view = View.of(defence)
        for queries in _QUERIES[: 2 if quick else None]:
            with victim(defence) as asked:
                found = solve(asked, columns, queries, view, seed)
                assert asked.asked == queries
            solved[defence.name, str(queries)] = {"error": error(found, true)}
    halved: Measures = {}
    direction = true / np.linalg.norm(true)
    for halvings in _HALVINGS[:: 4 if quick else 1]:
        with victim(ONE_DECIMAL) as asked:
            found = bisect_rounding(asked, columns, 1, halvings, seed)
            halved[ONE_DECIMAL.name, str(halvings)] = {"queries": asked.asked, "error": error(found, true)}
    for halvings in _HALVINGS[:: 4 if quick else 1]:
        with victim(LABEL_ONLY) as asked:
            found = bisect_labels(asked, columns, halvings, seed)
            halved[LABEL_ONLY.name, str(halvings)] = {"queries": asked.asked, "error": error(found, direction)}
    averaged: Measures = {}
    for defence, jitter in _AVERAGED:
        with victim(defence) as asked:
            repeats = 10 if quick else 500
            found = solve(asked, columns, 2 * (columns + 1), View.of(defence), seed, repeats=repeats, jitter=jitter)
            averaged[defence.name, f"{jitter:g}"] = {"queries": asked.asked, "error": error(found, true)}
    return {"solving": solved, "halving": halved, "averaging": averaged}


@dataclass(frozen=True)
class View:
    """What an attacker knows of a policy, which is no secret: it can be tried out at home.

    Attributes:
        inexact: The standard deviation of what a score is off.
        scores: True scores.
        told: What is told of them on average. Noise that is clipped draws everything towards the middle.
    """

    inexact: float
    scores: Rows
    told: Rows

    @classmethod
    def of(cls, defence: Defence) -> "View":
        """From its decimals, or from noise of the same kind, tried out at home."""
        if defence.noise is None:
            unit = 10.0 ** -(defence.output or {"decimals": 15})["decimals"]
            return cls(unit / np.sqrt(12), np.array([0.0, 1.0]), np.array([0.0, 1.0]))
        scores = (np.arange(40_000) + 0.5) / 40_000
        both = np.column_stack([1.0 - scores, scores])
        told = defence.noise.add(both, np.random.default_rng(0))[:, 1]
        bins = scores.reshape(100, -1).mean(axis=1), told.reshape(100, -1).mean(axis=1)
        return cls(float(np.std(told - np.interp(scores, *bins))), *bins)


def solve(
    victim: Victim,
    columns: int,
    queries: int,
    view: View,
    seed: int,
    *,
    repeats: int = 1,
    jitter: float = 0.0,
) -> Rows:
    """Weights and offset by least squares over equations.

    With queries to spare, a fifth of them find out roughly where the boundary is, and the rest are asked close to it.

    Args:
        victim: Has two classes.
        columns: The number of features.
        queries: How many rows are asked, without repeats.
        view: What the attacker knows of the policy.
        seed: Of the inputs.
        repeats: How often each row is asked. Answers are averaged.
        jitter: How far repeats lie from each other, in each feature.

    Returns:
        The weights, and then the offset.
    """
    random = np.random.default_rng(seed)
    view = View(view.inexact / np.sqrt(repeats), view.scores, view.told)

    def ask(x: Rows) -> Rows:
        again = np.repeat(x, repeats, axis=0)
        again = again + jitter * random.uniform(-1, 1, again.shape)
        said: Rows = victim.ask(again)[:, 1].reshape(len(x), repeats).mean(axis=1)
        return said

    first = max(columns + 1, queries // 5)
    x = random.normal(0, 0.3, (first, columns))
    said = ask(x)
    found = _fit(x, said, view)
    if queries > first:
        near = _near(found, queries - first, random)
        found = _fit(np.concatenate([x, near]), np.concatenate([said, ask(near)]), view)
    return found


def bisect_rounding(victim: Victim, columns: int, decimals: int, halvings: int, seed: int) -> Rows:
    """Weights and offset from points where the rounded score of class 1 changes, found by halving.

    Half a unit below a rounded value is a score that is known exactly. One such score gives the boundary but for its
    scale, so two are looked for.
    """
    steps = np.round(0.45, decimals) - 10.0**-decimals / 2, np.round(0.15, decimals) - 10.0**-decimals / 2
    counts = (columns + 1) // 2, columns + 1 - (columns + 1) // 2
    found = []
    for number, (step, count) in enumerate(zip(steps, counts, strict=True)):
        above = partial(_above, victim, step)
        found.append(_halve(above, *_segments(above, columns, count, seed + number), halvings))
    odds = np.repeat([np.log(step / (1 - step)) for step in steps], counts)
    points = np.concatenate(found)
    solved: Rows = np.linalg.solve(np.column_stack([points, np.ones(len(points))]), odds)
    return solved


def _above(victim: Victim, step: float, x: Rows) -> NDArray[np.bool_]:
    higher: NDArray[np.bool_] = victim.ask(x)[:, 1] > step
    return higher


def bisect_labels(victim: Victim, columns: int, halvings: int, seed: int) -> Rows:
    """The boundary from points on it, found by halving. Its scale stays unknown: weights and offset of length 1."""
    said = partial(_above, victim, 0.5)  # a label says 1 of its class
    inside, outside = _segments(said, columns, columns + 1, seed)
    points = _halve(said, inside, outside, halvings)
    _, _, directions = np.linalg.svd(np.column_stack([points, np.ones(len(points))]))
    found: Rows = directions[-1]
    return found if (inside[0] @ found[:-1] + found[-1]) > 0 else -found


def error(found: Rows, true: Rows) -> float:
    """The length of the difference, in parts of the true length."""
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def _fit(x: Rows, told: Rows, view: View) -> Rows:
    """Weights and offset that explain the answers best, and are not larger than they need be: Gauss-Newton steps.

    The first step solves the equations for the logarithm of the odds, and is the last one where they are exact.
    """
    x = np.column_stack([x, np.ones(len(x))])
    scores = np.interp(told, view.told, view.scores).clip(max(view.inexact, 1e-12), 1 - max(view.inexact, 1e-12))
    odds = np.log(scores / (1 - scores))
    slope = scores * (1 - scores)
    for _ in range(8):
        found = _least_squares(x * slope[:, np.newaxis], odds * slope, view.inexact)
        reached = (x @ found).clip(-30, 30)
        guess = 1 / (1 + np.exp(-reached))
        expected = np.interp(guess, view.scores, view.told)
        slope = guess * (1 - guess) * _slope(guess, view) + 1e-9
        odds = reached + ((told - expected) / slope).clip(-3, 3)
    return found


def _slope(scores: Rows, view: View) -> Rows:
    """By how much more is told where a score is higher."""
    step = 0.5 / len(view.scores)
    above, below = (scores + step).clip(0, 1), (scores - step).clip(0, 1)
    rise: Rows = np.interp(above, view.scores, view.told) - np.interp(below, view.scores, view.told)
    slope: Rows = rise / (above - below)
    return slope


def _least_squares(x: Rows, y: Rows, inexact: float) -> Rows:
    """Ridge regression: weights are expected around 0, with a standard deviation of 1."""
    columns = x.shape[1]
    found: Rows = np.linalg.lstsq(
        np.concatenate([x, inexact * np.eye(columns)]), np.concatenate([y, np.zeros(columns)]), rcond=None
    )[0]
    return found


def _near(found: Rows, rows: int, random: np.random.Generator) -> Rows:
    """Inputs that lie far apart and close to the boundary that was found so far."""
    weights, offset = found[:-1], found[-1]
    x = random.normal(0, 1.0, (rows, len(weights)))
    wanted = random.uniform(-1, 1, rows)
    moved: Rows = x - np.outer(x @ weights + offset - wanted, weights) / (weights @ weights)
    return moved.clip(-_FURTHEST, _FURTHEST)


def _segments(inside: Test, columns: int, wanted: int, seed: int) -> tuple[Rows, Rows]:
    """Pairs of points with the boundary between them."""
    random = np.random.default_rng(seed)
    yes: list[Rows] = []
    no: list[Rows] = []
    while min(len(yes), len(no)) < wanted:
        for point, is_inside in zip(x := random.normal(0, 2.0, (wanted, columns)), inside(x), strict=True):
            (yes if is_inside else no).append(point)
    return np.array(yes[:wanted]), np.array(no[:wanted])


def _halve(inside: Test, yes: Rows, no: Rows, halvings: int) -> Rows:
    """Where the answer changes between the two points of each pair."""
    for _ in range(halvings):
        middle = (yes + no) / 2
        is_inside = np.asarray(inside(middle))[:, np.newaxis]
        yes, no = np.where(is_inside, middle, yes), np.where(is_inside, no, middle)
    return (yes + no) / 2
