r"""An app that keeps its pydantic models, and gets keys, a rate limit, safe numbers and rounded answers.

Make a key that may predict, start, call::

    export KEY=$(python -c "import secrets; print(secrets.token_urlsafe(32))")
    MLGUARD_API_KEYS="alice=$KEY;predict" uvicorn --no-server-header examples.pydantic_only:app
    curl localhost:8000/predict -H "X-API-Key: $KEY" -H "Content-Type: application/json" \
        -d '{"features": [5.1, 3.5, 1.4, 0.2], "weight": 0.5}'

A body that declares more than ``harden`` allows, and one from a caller without a key, is refused before it is read.
Large batches are several times faster through ``Features``: see ``demo/service.py``.
"""

from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import APIKeyAuth, APIKeys, FeatureVector, FiniteNumber, RateLimit, harden, truncate_output

iris = load_iris()
model = LogisticRegression(max_iter=1000).fit(iris.data, iris.target)

app = FastAPI(title="Iris")
harden(app)

caller = APIKeyAuth(APIKeys.from_env())
steady = RateLimit("60/minute", "1000/day", by=caller)


class Flower(BaseModel):
    """What comes in. Numbers are finite and in range, or the request is refused."""

    model_config = ConfigDict(extra="forbid")

    features: Annotated[NDArray[np.float64], FeatureVector(columns=4, low=0.0, high=10.0)]
    weight: Annotated[FiniteNumber, Field(gt=0, le=1)] = 1.0


class Answer(BaseModel):
    """What goes out. Only these fields, rounded."""

    species: str
    probabilities: list[float]
    weight: float


@app.post("/predict", response_model=Answer, dependencies=[Security(caller, scopes=["predict"]), Depends(steady)])
@truncate_output(decimals=2, scores="probabilities")
def predict(flower: Flower) -> dict[str, Any]:
    """The species of a flower, and how likely each one is."""
    probabilities = model.predict_proba([flower.features])[0]
    species = str(iris.target_names[probabilities.argmax()])
    return {"species": species, "probabilities": probabilities.tolist(), "weight": flower.weight}
