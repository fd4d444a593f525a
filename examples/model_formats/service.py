"""What all formats share: one endpoint, and where the file and the key of its signer are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI
from numpy.typing import NDArray

from mlguard import Features, harden

Rows = NDArray[np.float64]

CLASSES = ["setosa", "versicolor", "virginica"]


def model_file() -> Path:
    """The file that ``MODEL`` names. Its signature lies beside it."""
    return Path(os.environ["MODEL"])


def signer() -> Path:
    """The public key of who releases models, which ``MODEL_SIGNER`` names."""
    return Path(os.environ["MODEL_SIGNER"])


def make_service(classify: Callable[[Rows], Any]) -> FastAPI:
    """A service that names flowers.

    Args:
        classify: Gives the number of the class for each row, shape (rows, 4).
    """
    app = FastAPI(title="Flowers")
    harden(app)
    flowers = Features(columns=4, low=0.0, high=10.0, max_rows=100)

    @app.post("/predict")
    def predict(x: Annotated[np.ndarray, Depends(flowers)]) -> dict[str, Any]:
        return {"species": [CLASSES[number] for number in np.asarray(classify(x)).tolist()]}

    return app
