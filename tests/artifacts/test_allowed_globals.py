"""The ready sets have what the estimators in them need, and nothing more."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from mlguard import (
    NUMPY_ARRAYS,
    SKLEARN_ESTIMATORS,
    SKLEARN_FORESTS,
    SKLEARN_LINEAR,
    SKLEARN_PREPROCESSING,
    ConfigurationError,
    inspect_model,
    load_model,
)
from tests.artifacts.estimators import CLASSES, ROWS, forests, joblib_bytes, linear_models, preprocessing, saved

SETS = [(SKLEARN_FORESTS, forests), (SKLEARN_LINEAR, linear_models), (SKLEARN_PREPROCESSING, preprocessing)]


@pytest.mark.parametrize(("allowed", "models"), SETS, ids=["forests", "linear", "preprocessing"])
def test_a_set_has_what_its_estimators_need_and_nothing_more(
    allowed: frozenset[tuple[str, str]], models: Callable[[], Iterator[Any]], tmp_path: Path
) -> None:
    """Each is fitted, saved in every protocol by pickle and by joblib, and predicts the same after it was loaded."""
    needed = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some do not converge
        fitted = list(models())
    path = tmp_path / "model.joblib"
    for model in fitted:
        for content in saved(model):
            path.write_bytes(content)
            needed |= set(inspect_model(path).globals)
            loaded = load_model(path, unverified=True, allow=allowed)
            assert type(loaded) is type(model)
        if hasattr(model, "predict"):
            assert np.array_equal(loaded.predict(ROWS), model.predict(ROWS))
        elif getattr(model, "n_features_in_", 0) == ROWS.shape[1]:
            assert np.allclose(loaded.transform(ROWS), model.transform(ROWS))
    assert needed | NUMPY_ARRAYS == allowed


def test_arrays_need_their_set_and_nothing_more(tmp_path: Path) -> None:
    """Numbers, texts, bytes, objects, scalars, either byte order, any order of axes, and none at all."""
    arrays: list[Any] = [
        np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)), np.float32(1),
        np.array(["a", "ä"]), np.array([b"a"]), np.array([True, None, "a"], object), np.zeros((0, 3)), np.array(5),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]), np.zeros((0,), object), np.arange(20_000), np.array([""]),
    ]  # fmt: skip
    needed = set()
    path = tmp_path / "model.joblib"
    for array in arrays:
        for content in saved(array):
            path.write_bytes(content)
            needed |= set(inspect_model(path).globals)
            loaded = load_model(path, unverified=True, allow=NUMPY_ARRAYS)
            assert loaded.dtype in (array.dtype, array.dtype.newbyteorder("="))
            assert np.array_equal(loaded, array)
    assert needed - NUMPY_ARRAYS == set()
    assert NUMPY_ARRAYS - needed == set()


def test_a_random_forest_needs_seven_globals(tmp_path: Path) -> None:
    """As joblib saves it."""
    path = tmp_path / "model.joblib"
    path.write_bytes(joblib_bytes(RandomForestClassifier(2).fit(ROWS, CLASSES)))
    needed = frozenset(inspect_model(path).globals)
    assert len(needed) == 7
    load_model(path, unverified=True, allow=needed)


def test_the_sets_are_joined() -> None:
    """``SKLEARN_ESTIMATORS`` is all of them, and none can be changed."""
    assert SKLEARN_ESTIMATORS == SKLEARN_FORESTS | SKLEARN_LINEAR | SKLEARN_PREPROCESSING
    assert isinstance(SKLEARN_ESTIMATORS, frozenset)


@pytest.mark.parametrize(
    "allow",
    ["os.system", b"os", None, 5, [("os",)], [("os", "system", "x")], ["os.system"], [("os", "")], [(b"os", "system")],
     [("numpy", "__builtins__.eval")], [["os", "system"]]],
)  # fmt: skip
def test_what_is_no_pair_is_no_setting(allow: Any, tmp_path: Path) -> None:
    """Nor a name with a dot, which would reach through attributes."""
    with pytest.raises(ConfigurationError, match="allow="):
        load_model(tmp_path / "model.joblib", unverified=True, allow=allow)
