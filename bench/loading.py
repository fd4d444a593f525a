"""What the gate in front of a model file costs beside joblib alone: a random forest of 100 MB, in the page cache."""

import copy
import hashlib
import pickle
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import joblib
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from sklearn.ensemble import RandomForestClassifier

from bench.report import Line, Table
from bench.timing import Timing, take_turns
from mlguard import SKLEARN_FORESTS, load_model, sign_model

_TARGET = 1.3
_KEY = generate_private_key(SECP256R1())


async def measure(*, short: bool) -> Table:
    """The allow-list alone, with a pinned digest, with a signature, and what joblib has compressed."""
    forest = _forest(copies=1 if short else 12)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "forest.joblib", Path(folder) / "packed.joblib"
        pickled = Path(folder) / "forest.pkl"
        joblib.dump(forest, plain)
        joblib.dump(forest, packed, compress=("zlib", 1))
        pickled.write_bytes(pickle.dumps(forest, 5))
        digest = hashlib.sha256(plain.read_bytes()).hexdigest()
        sign_model(plain, _KEY)
        works: dict[str, tuple[Path, Callable[[], object]]] = {
            "allow-list": (plain, lambda: load_model(plain, unverified=True, allow=SKLEARN_FORESTS)),
            "allow-list, SHA-256": (plain, lambda: load_model(plain, sha256=digest, allow=SKLEARN_FORESTS)),
            "allow-list, zlib": (packed, lambda: load_model(packed, unverified=True, allow=SKLEARN_FORESTS)),
        }
        for work, (path, guarded) in works.items():
            bare = _called(partial(joblib.load, path))
            lines.append(Line(work, await _turns(bare, _called(guarded), short=short), _TARGET))
        guarded = _called(lambda: load_model(plain, key=_KEY.public_key(), allow=SKLEARN_FORESTS))
        signed = await _turns(_called(partial(joblib.load, plain)), guarded, short=short)
        guarded = _called(lambda: load_model(pickled, unverified=True, allow=SKLEARN_FORESTS))
        timing = await _turns(_called(lambda: pickle.loads(pickled.read_bytes())), guarded, short=short)  # noqa: S301
        size = plain.stat().st_size / 1e6
    by_signature, in_pickle = signed.ratio("guarded", "bare"), timing.ratio("guarded", "bare")
    notes = [
        f"With a signature: {by_signature:.2f}x joblib alone.",
        f"A plain pickle: {in_pickle:.2f}x pickle's reader in C, because it is read twice by the one in Python.",
    ]
    return Table(f"Loading a random forest of {size:.0f} MB, beside joblib", lines, notes)


async def _turns(
    bare: Callable[[], Awaitable[object]], guarded: Callable[[], Awaitable[object]], *, short: bool
) -> Timing:
    return await take_turns({"bare": bare, "guarded": guarded}, rounds=2 if short else 11, calls=1)


def _forest(*, copies: int) -> RandomForestClassifier:
    """Trees that differ, and their copies: a hundred megabytes in a few seconds."""
    random = np.random.default_rng(0)
    rows = random.random((20_000, 20))
    classes = (rows[:, 0] + random.random(20_000) > 1).astype(int)
    forest = RandomForestClassifier(20, random_state=0, n_jobs=2).fit(rows, classes)
    forest.estimators_ = [copy.deepcopy(tree) for _ in range(copies) for tree in forest.estimators_]
    expected = forest.predict(rows[:100])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "forest.joblib"
        joblib.dump(forest, path)
        loaded = load_model(path, unverified=True, allow=SKLEARN_FORESTS)
    assert np.array_equal(loaded.predict(rows[:100]), expected), "another forest"
    return forest


def _called(call: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def called() -> object:
        return call()

    return called
