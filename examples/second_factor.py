r"""Any login may predict, and only one with a second factor, not longer than ten minutes ago, may retrain.

The keys that verify tokens are in a file, a JWK Set, which is read again when it changes: the identity provider's
operator puts a new key in and takes the old one out, and nothing is restarted. Name the file and the provider, start,
call::

    JWKS_FILE=keys.json ISSUER=https://login.example AUDIENCE=iris \
        uvicorn --no-server-header examples.second_factor:app
    curl localhost:8000/predict -H "Authorization: Bearer <token>" -H "Content-Type: application/json" \
        -d '{"features": [5.1, 3.5, 1.4, 0.2]}'
    curl -X POST localhost:8000/retrain -H "Authorization: Bearer <token>"

A token whose login is too old or too weak is answered as RFC 9470 has it, so that the client can send its user to log
in again. The provider writes into ``amr`` how the user logged in, and into ``auth_time`` when.
"""

import os
from typing import Annotated

from fastapi import Body, Depends, FastAPI, Security
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import FiniteNumber, JWTAuth, Principal, RateLimit, harden

model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))

app = FastAPI(title="Iris, retrained by the careful")
harden(app)

JWKS, ISSUER, AUDIENCE = os.environ["JWKS_FILE"], os.environ["ISSUER"], os.environ["AUDIENCE"]

user = JWTAuth.from_jwks(JWKS, algorithms=["RS256"], issuer=ISSUER, audience=AUDIENCE)
careful_user = JWTAuth.from_jwks(
    JWKS,
    algorithms=["RS256"],
    issuer=ISSUER,
    audience=AUDIENCE,
    amr={"otp"},
    max_auth_age=600,
    scheme_name="CarefulLogin",
)
steady = RateLimit("60/minute", by=user)

Flower = Annotated[list[FiniteNumber], Body(embed=True, min_length=4, max_length=4)]


@app.post("/predict", dependencies=[Security(user, scopes=["predict"]), Depends(steady)])
def predict(features: Flower) -> dict[str, int]:
    """The class of one flower."""
    return {"label": int(model.predict([features])[0])}


@app.post("/retrain")
def retrain(who: Annotated[Principal, Security(careful_user, scopes=["retrain"])]) -> dict[str, str]:
    """Stands for what must not be done with a stolen laptop."""
    return {"retrained_by": who.id}
