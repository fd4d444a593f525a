"""A real model, trained in a moment on data that comes with scikit-learn: handwritten digits of 8 by 8 pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

CLASSES = [str(digit) for digit in range(10)]
PIXELS = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
BLACK, WHITE = 0.0, 16.0


def train() -> Any:
    """A classifier of images, each a row of 64 brightnesses."""
    images, digits = load_digits(return_X_y=True)
    return make_pipeline(FunctionTransformer(brighten), LogisticRegression(C=0.1, max_iter=1000)).fit(images, digits)


def brighten(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each image so that its brightest pixel is 1.

    With a bug as they come, left in to show what happens then: a black image has no bright pixel, so this gives NaN,
    and the classifier raises.
    """
    with np.errstate(invalid="ignore"):
        brightened: NDArray[np.float64] = images / images.max(axis=1, keepdims=True)
    return brightened
