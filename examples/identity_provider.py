r"""People with a token of an identity provider, programs with a key: either may call the same endpoint.

The provider's keys are found by its name and followed as they change. Who is an analyst there may predict here. Needs
``pip install 'mlguard[oidc]'``. Make a key, name your provider and what it calls this service, start, call::

    export MLGUARD_API_KEYS_FILE=keys.toml
    export KEY=$(mlguard keys new nightly --scope predict)
    OIDC_ISSUER=https://login.example OIDC_AUDIENCE=iris uvicorn --no-server-header examples.identity_provider:app
    curl localhost:8000/predict -H "X-API-Key: $KEY" -H "Content-Type: application/json" \
        -d '{"features": [5.1, 3.5, 1.4, 0.2]}'
    curl localhost:8000/predict -H "Authorization: Bearer <token>" -H "Content-Type: application/json" \
        -d '{"features": [5.1, 3.5, 1.4, 0.2]}'
"""

import os
from typing import Annotated

from fastapi import Body, Depends, FastAPI, Security
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import AnyAuth, APIKeyAuth, APIKeys, FiniteNumber, JWTAuth, Principal, RateLimit, harden

model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))

app = FastAPI(title="Iris")
harden(app)

programs = APIKeyAuth(APIKeys.from_file())
people = JWTAuth.from_oidc(
    os.environ["OIDC_ISSUER"],
    audience=os.environ["OIDC_AUDIENCE"],
    roles={"analyst": ["predict"]},  # a provider such as Keycloak: roles_claim=("realm_access", "roles")
    failures=RateLimit("30/minute", name="failed tokens"),
)
caller = AnyAuth(programs, people)
steady = RateLimit("60/minute", by=caller)

Flower = Annotated[list[FiniteNumber], Body(embed=True, min_length=4, max_length=4)]


@app.post("/predict", dependencies=[Depends(steady)])
def predict(features: Flower, who: Annotated[Principal, Security(caller, scopes=["predict"])]) -> dict[str, int | str]:
    """The class of one flower, and how it was proved who asks."""
    return {"label": int(model.predict([features])[0]), "proved_by": who.method}
