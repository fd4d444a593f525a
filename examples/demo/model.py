"""A real model, trained in a moment on data that comes with scikit-learn: handwritten digits of 8 by 8 pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mlguard import SKLEARN_LINEAR, SKLEARN_PREPROCESSING

NAME = "digits"
#: What its file may name: scikit-learn's estimators, and one of our own.
ALLOWED = SKLEARN_LINEAR | SKLEARN_PREPROCESSING | {("examples.demo.model", "Brighten")}
CLASSES = [str(digit) for digit in range(10)]
PIXELS = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
BLACK, WHITE = 0.0, 16.0


_USUAL = 400  # images that the model is not trained on


def train() -> Any:
    """A classifier of images, each a row of 64 brightnesses."""
    images, digits = load_digits(return_X_y=True)
    return make_pipeline(Brighten(), LogisticRegression(C=0.1, max_iter=1000)).fit(images[_USUAL:], digits[_USUAL:])


def usual_images() -> NDArray[np.float64]:
    """Images such as honest callers send, which the model has not seen."""
    images: NDArray[np.float64] = load_digits(return_X_y=True)[0][:_USUAL]
    return images


class Brighten(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Scales each image so that its brightest pixel is 1.

    With a bug as they come, left in to show what happens then: a black image has no bright pixel, so this gives NaN,
    and the classifier raises.
    """

    def fit(self, images: NDArray[np.float64], digits: object = None) -> "Brighten":  # noqa: ARG002
        """Learn nothing."""
        return self

    def transform(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """The brightened images."""
        with np.errstate(invalid="ignore"):
            brightened: NDArray[np.float64] = images / images.max(axis=1, keepdims=True)
        return brightened
