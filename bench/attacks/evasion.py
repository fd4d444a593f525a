"""Inputs that are changed a little until the model gets them wrong, by what the answers tell.

HopSkipJump (Chen et al., 2020) needs labels, SimBA (Guo et al., 2019) needs scores, and a transfer attack needs a copy:
it climbs there, and tries the results here. All images are attacked side by side, a row each in every request; queries
are counted for each image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.attacks.copying import ordinary
from bench.attacks.models import Data, Task, digits
from bench.attacks.network import Network, teach
from bench.attacks.results import Columns, Measures
from bench.attacks.victim import (
    ALL_DIGITS,
    INPUT_NOISE,
    LABEL_ONLY,
    LIGHT_NOISE,
    MEDIAN,
    ONE_DECIMAL,
    TWO_BITS,
    TWO_DECIMALS,
    Labels,
    Rows,
    Victim,
)

TABLES = {
    "evasion": Columns(
        "Images that were changed until they were misread",
        ("attack", "guard"),
        ("within 1", "median distance", "queries"),
    ),
    "evasion-curve": Columns("Images that were misread, by distance", ("attack", "guard", "distance"), ("share",)),
}
DEFENCES = (ALL_DIGITS, TWO_DECIMALS, ONE_DECIMAL, LABEL_ONLY, LIGHT_NOISE, TWO_BITS, MEDIAN, INPUT_NOISE)

_IMAGES = 40
_QUERIES = 2_500  # an image
_COPY = 200  # rows to teach a copy with
_DISTANCES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Attacked:
    """What came of it.

    Attributes:
        distance: Of each image from the original, as Euclidean length; infinite where it is read right in the end.
        queries: How many rows were asked for an image, on average.
    """

    distance: Rows
    queries: float


def run(seed: int, *, quick: bool) -> dict[str, Measures]:
    """All attacks and guards, on one network."""
    task = digits("network", seed)
    attacks: dict[str, Callable[[Victim, Task, Data, int], Attacked]] = {
        "HopSkipJump": hop_skip_jump,
        "SimBA": simba,
        "transfer": transfer,
    }
    found: Measures = {}
    curve: Measures = {}
    for name, attack in attacks.items():
        for defence in DEFENCES[: 1 if quick else None]:
            with Victim(task.model, defence, columns=64, seed=seed) as victim:
                images = _read_right(victim, task.unseen, 4 if quick else _IMAGES)
                result = attack(victim, task, images, seed)
            found[name, defence.name] = {
                "within 1": float(np.mean(result.distance <= 1.0)),
                "median distance": float(np.median(result.distance)),
                "queries": result.queries,
            }
            for distance in _DISTANCES:
                share = float(np.mean(result.distance <= distance))
                curve[name, defence.name, f"{distance:g}"] = {"share": share}
    return {"evasion": found, "evasion-curve": curve}


def _read_right(victim: Victim, unseen: Data, count: int) -> Data:
    """The first images that the guarded model reads right."""
    right = np.flatnonzero(victim.label(unseen.x) == unseen.y)[:count]
    return Data(unseen.x[right], unseen.y[right])


def _judge(victim: Victim, images: Data, changed: Rows, queries: float) -> Attacked:
    """What counts is what the service says of the changed image when it is sent once more."""
    distance = np.linalg.norm(changed - images.x, axis=1)
    wrong = victim.label(changed) != images.y
    return Attacked(np.where(wrong, distance, np.inf), queries)


# HopSkipJump: labels only ---------------------------------------------------------------------------------------------


def hop_skip_jump(victim: Victim, task: Task, images: Data, seed: int) -> Attacked:  # noqa: ARG001
    """Walk along the boundary towards the original, by its slope estimated from labels around a point on it."""
    random = np.random.default_rng(seed)
    count, columns = images.x.shape
    exactness = columns**-1.5  # the theta of the paper, for Euclidean distance
    asked = 0

    def wrong(x: Rows, of: Labels) -> Mask:
        nonlocal asked
        asked += len(x)
        misread: Mask = victim.label(x.clip(0.0, 1.0)) != images.y[of]
        return misread

    everyone = np.arange(count)

    def to_boundary(far: Rows) -> Rows:
        """Towards the original as far as the label stays wrong."""
        low, high = np.zeros((count, 1)), np.ones((count, 1))
        for _ in range(int(np.ceil(-np.log2(exactness)))):
            middle = (low + high) / 2
            is_wrong = wrong(images.x + middle * (far - images.x), everyone)[:, np.newaxis]
            low, high = np.where(is_wrong, low, middle), np.where(is_wrong, middle, high)
        at: Rows = images.x + high * (far - images.x)
        return at

    changed = to_boundary(_misread(wrong, images, random))
    best = changed
    length = np.linalg.norm(changed - images.x, axis=1, keepdims=True)
    turn = 0
    while True:
        turn += 1
        samples = int(min(100 * np.sqrt(turn), 10_000))
        if asked / count + samples + 2 * columns**0.5 > _QUERIES:
            break
        reach = np.full((count, 1), 0.1) if turn == 1 else np.sqrt(columns) * exactness * length
        uphill = _slope(wrong, changed, reach, samples, random)
        step = length / np.sqrt(turn)
        moved = changed
        waiting = everyone
        for _ in range(15):  # halve the step of those that it took back across the boundary
            tried = (changed[waiting] + step[waiting] * uphill[waiting]).clip(0.0, 1.0)
            there = wrong(tried, waiting)
            moved = moved.copy()
            moved[waiting[there]] = tried[there]
            waiting = waiting[~there]
            step[waiting] /= 2
            if not len(waiting):
                break
        changed = to_boundary(moved)
        length = np.linalg.norm(changed - images.x, axis=1, keepdims=True)
        nearer = length < np.linalg.norm(best - images.x, axis=1, keepdims=True)
        best = np.where(nearer, changed, best)
    return _judge(victim, images, best, asked / count)


def _misread(wrong: Callable[[Rows, Labels], Mask], images: Data, random: np.random.Generator) -> Rows:
    """Any image that is read as something else: noise, looked for until there is one for each."""
    start = np.zeros_like(images.x)
    waiting = np.arange(len(start))
    while len(waiting):
        tried = random.uniform(0.0, 1.0, (len(waiting), start.shape[1]))
        there = wrong(tried, waiting)
        start[waiting[there]] = tried[there]
        waiting = waiting[~there]
    return start


def _slope(
    wrong: Callable[[Rows, Labels], Mask], at: Rows, reach: Rows, samples: int, random: np.random.Generator
) -> Rows:
    """The direction in which labels turn wrong: the mean of random directions, by whether they did."""
    count, columns = at.shape
    directions = random.normal(size=(count, samples, columns))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    around = (at[:, np.newaxis] + reach[:, :, np.newaxis] * directions).clip(0.0, 1.0)
    directions = (around - at[:, np.newaxis]) / reach[:, :, np.newaxis]
    said = wrong(around.reshape(-1, columns), np.repeat(np.arange(count), samples)).reshape(count, samples)
    signs = np.where(said, 1.0, -1.0)
    mean = signs.mean(axis=1, keepdims=True)
    signs -= np.where(np.abs(mean) < 1.0, mean, 0.0)  # the paper's baseline, unless all are alike
    uphill = np.einsum("ij,ijk->ik", signs, directions)
    slope: Rows = uphill / np.linalg.norm(uphill, axis=1, keepdims=True)
    return slope


# SimBA: scores --------------------------------------------------------------------------------------------------------


def simba(victim: Victim, task: Task, images: Data, seed: int, step: float = 0.2) -> Attacked:  # noqa: ARG001
    """Change one pixel after the other, and keep what lowers the score of the true class."""
    random = np.random.default_rng(seed)
    count, columns = images.x.shape
    changed = images.x.copy()
    told = victim.ask(changed)
    lowest = told[np.arange(count), images.y]
    going = told.argmax(axis=1) == images.y
    queries = np.ones(count)
    order = np.array([random.permutation(columns) for _ in range(count)])
    for turn in range(_QUERIES // 2):
        if turn % columns == 0 and turn:
            order = np.array([random.permutation(columns) for _ in range(count)])
        trying = np.flatnonzero(going)
        for sign in (-step, step):
            if not len(trying):
                break
            tried = changed[trying]
            tried[np.arange(len(trying)), order[trying, turn % columns]] += sign
            tried = tried.clip(0.0, 1.0)
            told = victim.ask(tried)
            queries[trying] += 1
            score = told[np.arange(len(trying)), images.y[trying]]
            lower = score < lowest[trying]
            changed[trying[lower]] = tried[lower]
            lowest[trying[lower]] = score[lower]
            going[trying[told.argmax(axis=1) != images.y[trying]]] = False
            trying = trying[~lower & (told.argmax(axis=1) == images.y[trying])]
        if not going.any():
            break
    return _judge(victim, images, changed, float(queries.mean()))


# Transfer: a copy, and what fools it ----------------------------------------------------------------------------------


def transfer(victim: Victim, task: Task, images: Data, seed: int) -> Attacked:
    """Teach a copy with ordinary queries, climb there, and send the results, the closest first."""
    inputs = ordinary(task.pool.x, seed)
    before = victim.asked
    asked = np.concatenate([inputs(start) for start in range(0, _COPY, 50)])
    labels = np.eye(10)[victim.label(asked)]
    copy = teach(asked, labels, hidden=64, seed=seed)
    closest = np.full(len(images.y), np.inf)
    for radius in _DISTANCES[::-1]:
        wrong = victim.label(changed := climb(copy, images, radius)) != images.y
        distance = np.linalg.norm(changed - images.x, axis=1)
        closest = np.where(wrong, np.minimum(distance, closest), closest)
    return Attacked(closest, (victim.asked - before) / len(images.y))


def climb(copy: Network, images: Data, radius: float, steps: int = 40) -> Rows:
    """Projected gradient ascent (Madry et al., 2018) within a Euclidean distance."""
    change = np.zeros_like(images.x)
    for _ in range(steps):
        slope = copy.gradient(images.x + change, images.y)
        change = change + 2.5 * radius / steps * slope / (np.linalg.norm(slope, axis=1, keepdims=True) + 1e-12)
        for _ in range(2):  # inside the ball, and inside what pixels may be
            length = np.linalg.norm(change, axis=1, keepdims=True)
            change = change * np.minimum(1.0, radius / np.maximum(length, 1e-12))
            change = (images.x + change).clip(0.0, 1.0) - images.x
    changed: Rows = images.x + change
    return changed
