"""What is kept of a query: a few salted marks, most of which it shares with queries close to it.

The idea is Blacklight's (Li et al., 2022): a query that shares many of its marks with one earlier query is a step of an
iterative attack. There marks are hashes of windows of quantised pixels. Here they are hashes of quantised random
projections (Datar et al., 2004), which know nothing of order and cost one product with a matrix, whatever the columns.
What is projected is drawn from a key, so nobody can tell which change of an input leaves its marks.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from mlguard.monitoring.query_reference import Floats, QueryReference

MARKS = 12  # of one query
SHARED = 3  # with one earlier query make it a near-duplicate
_PROJECTIONS = 4  # that one mark is made of
_WIDTH = 4.0  # of a step in which projections are quantised, in reaches

_FAR = 8.0  # spreads from the mean; what is further away is as far

_HALF = np.uint64(32)
_MULTIPLIER = 0xBF58476D1CE4E5B9  # of SplitMix64's finaliser (Steele et al., 2014)
_MIX = np.uint64(_MULTIPLIER)
_BITS = 2**64 - 1


class Fingerprints:
    """Makes distances and marks of rows.

    Args:
        reference: What usual rows are like.
        key: Where the projections are drawn from.
    """

    def __init__(self, reference: QueryReference, key: bytes) -> None:
        drawn = np.random.Generator(np.random.Philox(key=np.frombuffer(_derived(key, b"projections", 16), np.uint64)))
        columns, groups = reference.columns, len(reference.centres)
        projections = drawn.standard_normal((columns, MARKS * _PROJECTIONS)) / (_WIDTH * reference.reach)
        self._groups = groups
        self._centre = reference.centre
        self._per_spread = 1.0 / reference.scale
        self._matrix = np.concatenate([-2.0 * reference.centres.T, projections], axis=1).astype(np.float32)
        #: What is to be added to the products: the squares of the centres' lengths, and where steps begin.
        self._offsets = np.append(
            (reference.centres**2).sum(axis=1), drawn.uniform(0.0, 1.0, MARKS * _PROJECTIONS)
        ).astype(np.float32)
        #: Odd, and other ones for each mark: what two marks are hashed to has nothing in common.
        self._factors = drawn.integers(0, 2**63, (MARKS, _PROJECTIONS), np.uint64) * np.uint64(2) + np.uint64(1)
        self._salts = drawn.integers(0, 2**63, MARKS, np.uint64)
        self._exact = _derived(key, b"exact", 32)

    def of(self, rows: NDArray[np.generic]) -> tuple[list[float], list[list[int]]]:
        """How far rows are from usual ones, and their marks.

        Args:
            rows: Finite numbers, or NaN where a value is missing, shape ``(rows, columns)``.

        Returns:
            The distance of each row; and its marks, whole numbers below 2**64, the first of the row as a whole, which
            only an exact repeat has.
        """
        if len(rows) == 1:
            return self._of_one(rows[0])
        with np.errstate(all="ignore"):  # what is too large is as far as can be
            spreads = np.subtract(rows, self._centre, dtype=np.float64)
            spreads *= self._per_spread
        near = np.minimum(np.maximum(spreads, -_FAR), _FAR).astype(np.float32)
        products = near @ self._matrix
        squares = np.einsum("ij,ij->i", near, near)
        if math.isnan(squares.sum()):
            np.nan_to_num(near, copy=False)
            products, squares = near @ self._matrix, np.einsum("ij,ij->i", near, near)
        products += self._offsets
        distances = np.sqrt(np.maximum(products[:, : self._groups].min(axis=1) + squares, 0.0))
        steps = np.floor(products[:, self._groups :]).astype(np.int64).view(np.uint64)
        hashed = np.einsum("ijk,jk->ij", steps.reshape(-1, MARKS, _PROJECTIONS), self._factors)
        hashed += self._salts
        hashed ^= hashed >> _HALF
        hashed *= _MIX
        hashed ^= hashed >> _HALF
        marks = hashed.tolist()
        for row, of_row in zip(np.ascontiguousarray(rows), marks, strict=True):
            of_row.insert(0, self._mark_of(row))
        return distances.tolist(), marks

    def _of_one(self, row: NDArray[np.generic]) -> tuple[list[float], list[list[int]]]:
        """The same of one row, as most requests are, in half the time: with few numbers it is calls that cost."""
        with np.errstate(all="ignore"):
            spreads = np.subtract(row, self._centre, dtype=np.float64)
            spreads *= self._per_spread
        np.maximum(spreads, -_FAR, out=spreads)
        near = np.minimum(spreads, _FAR, out=spreads).astype(np.float32)
        square = float(near.dot(near))
        if math.isnan(square):
            np.nan_to_num(near, copy=False)
            square = float(near.dot(near))
        products = near.dot(self._matrix)
        products += self._offsets
        distance = math.sqrt(max(0.0, min(products[: self._groups].tolist()) + square))
        steps = np.floor(products[self._groups :]).astype(np.int64).view(np.uint64)
        hashed = np.einsum("jk,jk->j", steps.reshape(MARKS, _PROJECTIONS), self._factors)
        hashed += self._salts
        marks = [self._mark_of(row)]
        for mark in hashed.tolist():
            mixed = (mark ^ mark >> 32) * _MULTIPLIER & _BITS
            marks.append(mixed ^ mixed >> 32)
        return [distance], [marks]

    def _mark_of(self, row: NDArray[np.generic]) -> int:
        digest = hashlib.blake2b(row.tobytes(), digest_size=8, key=self._exact).digest()
        return int.from_bytes(digest, "little")


def scaled(rows: Floats, centre: Floats, scale: Floats) -> Floats:
    """Rows in units of the spread, as :class:`Fingerprints` sees them."""
    near: Floats = np.nan_to_num(np.clip((rows - centre) / scale, -_FAR, _FAR))
    return near


def chances(distances: Floats, reach: float) -> Floats:
    """How likely two rows at some distances are taken for near-duplicates (Datar et al., 2004, section 3.2)."""
    apart = np.maximum(distances / (reach * _WIDTH), 1e-9)
    inside = 1 / apart
    # 2 * (1 - the normal distribution's function), by an approximation good to 1e-7 (Abramowitz and Stegun, 26.2.17)
    t = 1 / (1 + 0.2316419 * inside)
    tail = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    outside = 2 * tail * np.exp(-(inside**2) / 2) / np.sqrt(2 * np.pi)
    one = 1 - outside - 2 * apart / np.sqrt(2 * np.pi) * (1 - np.exp(-(inside**2) / 2))
    mark = np.clip(one, 0.0, 1.0) ** _PROJECTIONS
    few = sum(_choose(MARKS, n) * mark**n * (1 - mark) ** (MARKS - n) for n in range(SHARED))
    # For small chances the difference to 1 would be lost: there the first term is all that counts.
    rare = _choose(MARKS, SHARED) * mark**SHARED
    found: Floats = np.where(rare < 1e-4, rare, np.clip(1 - few, 0.0, 1.0))
    return found


def _choose(n: int, k: int) -> float:
    product = 1.0
    for i in range(k):
        product = product * (n - i) / (i + 1)
    return product


def _derived(key: bytes, purpose: bytes, size: int) -> bytes:
    return hashlib.blake2b(purpose, digest_size=size, key=hashlib.sha256(key).digest()).digest()
