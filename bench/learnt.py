"""How many rows that were never seen are refused by bounds that were learnt from others.

Each data set of scikit-learn is split in two at random, twenty times: one half is learnt from, the other half is sent.
All rows are real, so each refusal is one too many.
"""

import json

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from bench.inputs import rows_of
from bench.report import Grid
from mlguard import Features, InvalidInputError

_DATA = {
    "iris": load_iris,
    "wine": load_wine,
    "diabetes": load_diabetes,
    "breast cancer": load_breast_cancer,
    "digits": load_digits,
}
_SPLITS = 20
_FEWEST = 100  # rows that Features learns from; the smallest sets are not halved, but split there


async def measure(*, short: bool) -> Grid:
    """Every data set, with three margins."""
    margins = (0.25, 0.5, 1.0)
    rows = []
    for name, load in _DATA.items():
        data = load(return_X_y=True)[0]
        shares = [_refused(data, margin, 1 if short else _SPLITS) for margin in margins]
        rows.append([name, f"{len(data)}", f"{data.shape[1]}", *(f"{share:.1%}" for share in shares)])
    head = ["data set", "rows", "columns", *(f"margin {margin}" for margin in margins)]
    return Grid("Unseen rows that learnt bounds refuse", head, rows, ["The default margin is 1."])


def _refused(data: NDArray[np.float64], margin: float, splits: int) -> float:
    half = max(len(data) // 2, _FEWEST)
    refused = sent = 0
    for seed in range(splits):
        mixed = np.random.default_rng(seed).permutation(data)
        guard = Features.from_data(mixed[:half], max_rows=1, margin=margin)
        for row in mixed[half:].tolist():
            sent += 1
            refused += not _accepts(guard, row)
    return refused / sent


def _accepts(guard: Features, row: list[float]) -> bool:
    try:
        rows_of(guard, json.dumps({guard._formats.field: row}).encode())
    except InvalidInputError:
        return False
    return True
