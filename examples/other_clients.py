r"""A model for clients that were written for MLflow's and for Triton's servers, and stay as they are.

Install pandas. Make a key that may predict, start, and use the clients::

    export KEY=$(python -c "import secrets; print(secrets.token_urlsafe(32))")
    MLGUARD_API_KEYS="alice=$KEY;predict" uvicorn --no-server-header examples.other_clients:app

    from mlflow.pyfunc.scoring_server.client import ScoringServerClient
    print(ScoringServerClient("127.0.0.1", 8000).invoke([[5.1, 3.5, 1.4, 0.2]]))

    import numpy, tritonclient.http as triton
    client = triton.InferenceServerClient("127.0.0.1:8000")
    flowers = triton.InferInput("flowers", [1, 4], "FP64")
    flowers.set_data_from_numpy(numpy.array([[5.1, 3.5, 1.4, 0.2]]), binary_data=False)  # as JSON
    print(client.infer("iris", [flowers], headers={"X-API-Key": KEY}).as_numpy("species"))

MLflow's client sends no credential, so its endpoint serves this machine only. Both get the label, and nothing else.
"""

from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import (
    AllowAddresses,
    APIKeyAuth,
    APIKeys,
    Features,
    OpenInferenceAnswer,
    QueryBudget,
    RateLimit,
    harden,
    truncate_output,
)

flowers = load_iris(as_frame=True)
model = LogisticRegression(max_iter=1_000).fit(flowers.data.to_numpy(), flowers.target)

app = FastAPI(title="Iris for other clients")
harden(app)

here = AllowAddresses(["127.0.0.0/8", "::1"])
caller = APIKeyAuth(APIKeys.from_env())
frames = Features.from_data(flowers.data, max_rows=1_000, formats=["mlflow"])
tensors = Features.from_data(flowers.data, max_rows=1_000, formats=["open-inference"])

Rows = NDArray[np.float64]


@app.post(
    "/invocations",
    dependencies=[Depends(here), Depends(RateLimit("600/minute", cost=frames))],
    response_model=None,
)
@truncate_output("private", scores="predictions", labels=flowers.target_names)
def invocations(x: Annotated[Rows, Depends(frames)]) -> Any:
    """What MLflow's scoring server answers: one prediction a row. Columns come in any order, by name."""
    return {"predictions": model.predict_proba(x)}


@app.post(
    "/v2/models/iris/infer",
    dependencies=[
        Security(caller, scopes=["predict"]),
        Depends(QueryBudget("10000/month", by=caller, cost=tensors)),
    ],
    response_model=None,
)
@truncate_output("private", labels=flowers.target_names, answer=OpenInferenceAnswer(output="species"))
def infer(x: Annotated[Rows, Depends(tensors)]) -> Any:
    """The Open Inference Protocol, which Triton, KServe and MLServer speak."""
    return {"probabilities": model.predict_proba(x)}


@app.get("/ping")
@app.get("/v2/health/live")
@app.get("/v2/health/ready")
def alive() -> None:
    """Both clients may ask whether the server is there."""
