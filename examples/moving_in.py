r"""An app that came from python-jose, passlib and slowapi, on the day on which it moves: nothing of its users' changes.

Their tokens go on to verify, with python-jose itself checking the signatures. Their passwords go on to be accepted, and
each hash that passlib made is replaced by argon2id when its user logs in next. The decorators stay, and count each user
instead of each address. Needs ``pip install 'mlguard[jose,passlib]'``; slowapi can be taken out. Take the secret that
signs your tokens and the hash of a user, start, log in, call::

    SECRET_KEY='<secret>' ALICE_HASH='<hash>' uvicorn --no-server-header examples.moving_in:app
    curl localhost:8000/login -d username=alice --data-urlencode "password=<password>"
    curl localhost:8000/predict -H "Authorization: Bearer <token>" -H "Content-Type: application/json" \
        -d '{"features": [5.1, 3.5, 1.4, 0.2]}'

Next: ``TokenIssuer`` and ``token_router`` in the place of ``/login``, ``RateLimit`` in the place of decorators.
"""

import os
import time
from typing import Annotated

from fastapi import Body, Depends, FastAPI, HTTPException, Request
from fastapi.security import OAuth2PasswordRequestForm
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import FiniteNumber, JWTAuth, Passwords, RateLimit, harden
from mlguard.compat.jose import jose_engine
from mlguard.compat.passlib import PasslibHashes  # before passlib, which then warns of nothing
from mlguard.compat.slowapi import Limiter

from jose import jwt  # isort: skip
from passlib.context import CryptContext  # isort: skip

model = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))

app = FastAPI(title="Iris, moved in")
harden(app)

SECRET_KEY = os.environ["SECRET_KEY"]

# The context that the app has always had says which hashes are read.
context = CryptContext(schemes=["bcrypt", "pbkdf2_sha256", "sha512_crypt"], deprecated="auto")
passwords = Passwords(PasslibHashes(context))
users = {"alice": os.environ["ALICE_HASH"]}  # stands for the table of users
guessing = RateLimit("10/minute", name="logins")

caller = JWTAuth(SECRET_KEY, algorithms=["HS256"], engine=jose_engine)
limiter = Limiter(by=caller)

Flower = Annotated[list[FiniteNumber], Body(embed=True, min_length=4, max_length=4)]


@app.post("/login", dependencies=[Depends(guessing)])
async def login(form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> dict[str, str]:
    """A token as python-jose has always made them, for a password as passlib has always hashed them."""
    check = await passwords.verify(form.password, users.get(form.username))
    if not check.valid:
        raise HTTPException(401, "Wrong name or password.")
    if check.upgraded_hash is not None:
        users[form.username] = check.upgraded_hash
    claims = {"sub": form.username, "exp": int(time.time()) + 3_600}
    return {"access_token": jwt.encode(claims, SECRET_KEY, algorithm="HS256"), "token_type": "bearer"}


@app.post("/predict", dependencies=[Depends(caller)])
@limiter.limit("5/minute;1000/day")
def predict(request: Request, features: Flower) -> dict[str, int]:  # noqa: ARG001  # which the decorator needs
    """The class of one flower."""
    return {"label": int(model.predict([features])[0])}
