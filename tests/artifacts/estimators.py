"""Fitted estimators, and the ways in which people save them."""

import io
import pickle
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    LabelBinarizer,
    LabelEncoder,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import LinearSVC, LinearSVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

PROTOCOLS = range(6)
COMPRESSIONS = ("zlib", "gzip", "bz2", "xz", "lzma", "lz4")

ROWS, CLASSES = load_iris(return_X_y=True)
NAMES = np.array(["a", "b", "c"], dtype=object)[CLASSES]


def forests() -> Iterator[Any]:
    """Every tree, with numbers, texts, objects and several outputs as classes."""
    for forest in (RandomForestClassifier, RandomForestRegressor, ExtraTreesClassifier, ExtraTreesRegressor):
        yield forest(n_estimators=2, random_state=0).fit(ROWS, CLASSES)
    for tree in (DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor):
        yield tree(ccp_alpha=0.01, random_state=0).fit(ROWS, CLASSES)
    yield RandomForestClassifier(n_estimators=9, oob_score=True, class_weight="balanced", random_state=0).fit(
        ROWS, NAMES
    )
    yield RandomForestClassifier(n_estimators=2, max_leaf_nodes=5, random_state=0).fit(ROWS, NAMES.astype(str))
    yield ExtraTreesClassifier(n_estimators=2, random_state=0).fit(ROWS, np.c_[CLASSES, CLASSES % 2])
    yield DecisionTreeRegressor().fit(ROWS, np.zeros(len(ROWS)))  # of one node
    yield IsolationForest(n_estimators=3, max_features=0.5, random_state=0).fit(ROWS)


def linear_models() -> Iterator[Any]:
    """Every linear model, and every loss."""
    for model in (
        LinearRegression,
        LogisticRegression,
        Ridge,
        RidgeClassifier,
        Lasso,
        ElasticNet,
        LinearSVC,
        LinearSVR,
    ):
        yield model().fit(ROWS, CLASSES)
    yield LogisticRegression(max_iter=1000).fit(ROWS, NAMES)
    yield SGDRegressor(random_state=0).fit(ROWS, CLASSES)
    for loss in (
        "hinge", "log_loss", "modified_huber", "squared_hinge", "perceptron", "squared_error", "huber",
        "epsilon_insensitive", "squared_epsilon_insensitive",
    ):  # fmt: skip
        yield SGDClassifier(loss=loss, random_state=0).fit(ROWS, CLASSES)


def preprocessing() -> Iterator[Any]:
    """Every transformer, some of them in pipelines."""
    steps = (SimpleImputer(), StandardScaler(), MinMaxScaler(), MaxAbsScaler(), RobustScaler(), Normalizer(),
             PolynomialFeatures(2), PCA(2))  # fmt: skip
    yield Pipeline([(type(step).__name__, step) for step in steps]).fit(ROWS)
    yield FeatureUnion([("scaled", StandardScaler()), ("turned", PCA(1))]).fit(ROWS)
    columns = [
        ("scaled", StandardScaler(), [0, 1]),
        ("one-hot", OneHotEncoder(handle_unknown="ignore"), [2]),
        ("single", OneHotEncoder(handle_unknown="ignore", dtype=np.float32), [2]),
        ("ordinal", OrdinalEncoder(), slice(2, 4)),
        ("as they are", "passthrough", [1]),
    ]
    yield ColumnTransformer(columns, remainder=MinMaxScaler(), sparse_threshold=0).fit(ROWS)
    rows = np.array([["a", 1], ["b", 2], ["c", np.nan]] * 3 + [["a", 1]] * 9, object)
    for options in ({}, {"drop": "first"}, {"drop": "if_binary"}, {"drop": ["a", 2]}, {"min_frequency": 5},
                    {"max_categories": 2, "drop": "first"}, {"min_frequency": 20, "drop": "first"}):  # fmt: skip
        yield Pipeline([("encoder", OneHotEncoder(**options))]).fit(rows)
    for kind in ("U", "S"):
        yield Pipeline([("encoder", OneHotEncoder())]).fit(NAMES.astype(kind).reshape(-1, 1))
    yield Pipeline([("encoder", OneHotEncoder())]).fit([[2.0], [1.0], [np.nan]])
    yield OneHotEncoder()
    yield LabelEncoder().fit(NAMES)
    yield LabelBinarizer().fit(NAMES)


def saved(model: Any) -> Iterator[bytes]:
    """What pickle and joblib write, in every protocol."""
    for protocol in PROTOCOLS:
        yield pickle.dumps(model, protocol)
        yield joblib_bytes(model, protocol=protocol)


def joblib_bytes(model: Any, *, protocol: int | None = None, compress: Any = 0) -> bytes:
    """What joblib writes."""
    stream = io.BytesIO()
    joblib.dump(model, stream, protocol=protocol, compress=compress)
    return stream.getvalue()
