"""The models that are attacked, and the data of their owner and of their attacker. Bundled or synthetic, by seed."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from bench.attacks.victim import Labels, Rows


@dataclass(frozen=True)
class Data:
    """Inputs and their true classes."""

    x: Rows
    y: Labels


@dataclass(frozen=True)
class Task:
    """A trained model, and data that it was not trained on.

    Attributes:
        name: What it is.
        model: Has ``predict_proba``.
        pool: What the attacker has that is like it.
        unseen: What the attack and the model's use are measured on.
    """

    name: str
    model: Any
    pool: Data
    unseen: Data


def tumours(seed: int) -> Task:
    """A logistic regression of 30 standardised features: 30 weights and an offset."""
    x, y = load_breast_cancer(return_X_y=True)
    own, pool, unseen = np.array_split(np.random.default_rng(seed).permutation(len(x)), 3)
    x = StandardScaler().fit(x[own]).transform(x).clip(-10.0, 10.0)
    model = LogisticRegression(max_iter=2_000).fit(x[own], y[own])
    return Task("tumours, logistic regression", model, Data(x[pool], y[pool]), Data(x[unseen], y[unseen]))


def digits(kind: str, seed: int) -> Task:
    """A model of handwritten digits, 8 x 8 pixels from 0 to 1. A third each: to train, to attack, to compare.

    Args:
        kind: One of ``DIGITS_MODELS``.
        seed: Of the split and the training.
    """
    own, pool, unseen = digits_data(seed)
    return Task(kind, fit(DIGITS_MODELS[kind](seed), own), pool, unseen)


DIGITS_MODELS: dict[str, Callable[[int], Any]] = {
    "network": lambda seed: MLPClassifier((64,), max_iter=400, random_state=seed),
    "logistic regression": lambda seed: LogisticRegression(max_iter=2_000),  # noqa: ARG005  # it draws nothing
    "random forest": lambda seed: RandomForestClassifier(100, random_state=seed),
}


def digits_data(seed: int) -> tuple[Data, Data, Data]:
    """The thirds of the digits: the owner's, the attacker's, and what nobody has seen."""
    images, labels = load_digits(return_X_y=True)
    thirds = np.array_split(np.random.default_rng(seed).permutation(len(images)), 3)
    own, pool, unseen = (Data(images[third] / 16.0, labels[third]) for third in thirds)
    return own, pool, unseen


@dataclass(frozen=True)
class Secret:
    """A model, and whose data it may have been trained on.

    Attributes:
        name: What it is.
        make: An untrained one, by seed.
        model: The trained one.
        members: What it was trained on.
        others: As many that it was not trained on.
        pool: What the attacker has that is like them.
    """

    name: str
    make: Callable[[int], Any]
    model: Any
    members: Data
    others: Data
    pool: Data


MEMBERSHIP_MODELS: dict[str, Callable[[int], Any]] = {
    "forest, overfit": lambda seed: RandomForestClassifier(100, random_state=seed),
    "forest, 20 samples a leaf": lambda seed: RandomForestClassifier(100, min_samples_leaf=20, random_state=seed),
    "network, overfit": lambda seed: MLPClassifier((128,), alpha=0.0, max_iter=500, random_state=seed),
    "network, L2 penalty": lambda seed: MLPClassifier((128,), alpha=3.0, max_iter=500, random_state=seed),
}


def customers(kind: str, seed: int) -> Secret:
    """A model of five classes that are hard to tell apart. Who was in the training data is the secret.

    Args:
        kind: One of ``MEMBERSHIP_MODELS``.
        seed: Of the data and the training.
    """
    size = 400
    x, y = make_classification(
        5 * size,
        n_features=20,
        n_informative=10,
        n_redundant=4,
        n_classes=5,
        n_clusters_per_class=2,
        class_sep=1.0,
        flip_y=0.1,
        random_state=seed,
    )
    x = StandardScaler().fit_transform(x).clip(-10.0, 10.0)
    members, others, pool = (Data(x[a:b], y[a:b]) for a, b in ((0, size), (size, 2 * size), (2 * size, 5 * size)))
    make = MEMBERSHIP_MODELS[kind]
    return Secret(kind, make, fit(make(seed), members), members, others, pool)


def patients(seed: int) -> Secret:
    """A forest that predicts one of three classes from eight numbers and a secret, a 0 or 1 in the last column.

    The secret goes with the other columns, so that it can be guessed without the model, too.
    """
    size, columns = 500, 8
    random = np.random.default_rng(seed)
    x = random.normal(size=(4 * size, columns))
    secret = x[:, 0] + x[:, 1] - x[:, 2] + random.normal(0, 1.3, len(x)) > 0
    outcome = x[:, 3:6] @ random.normal(size=(3, 3)) + random.normal(0, 2.5, (len(x), 3))
    outcome[:, 0] += secret
    outcome[:, 1] -= secret
    x, y = np.column_stack([x, secret]), outcome.argmax(axis=1)
    members, others, pool = (Data(x[a:b], y[a:b]) for a, b in ((0, size), (size, 2 * size), (2 * size, 4 * size)))

    make = MEMBERSHIP_MODELS["forest, overfit"]
    return Secret("patients, forest", make, fit(make(seed), members), members, others, pool)


def fit(model: Any, data: Data) -> Any:
    """Train it, as far as its number of iterations goes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(data.x, data.y)
