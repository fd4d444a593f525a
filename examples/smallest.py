r"""The smallest guarded endpoint: who calls must hold a key, and nothing inside leaks.

Make a key, start, call::

    export MLGUARD_API_KEYS=$(python -c "import secrets; print(secrets.token_urlsafe(32))")
    uvicorn --no-server-header examples.smallest:app
    curl localhost:8000/predict -H "X-API-Key: $MLGUARD_API_KEYS" -H "Content-Type: application/json" \
        -d '{"features": [5.1, 3.5, 1.4, 0.2]}'
"""

from typing import Annotated

from fastapi import Body, Depends, FastAPI
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import FiniteNumber, harden, require_api_key

model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))

app = FastAPI()
harden(app)

Flower = Annotated[list[FiniteNumber], Body(embed=True, min_length=4, max_length=4)]


@app.post("/predict", dependencies=[Depends(require_api_key)])
def predict(features: Flower) -> dict[str, int]:
    """The class of one flower: 0, 1 or 2."""
    return {"label": int(model.predict([features])[0])}
