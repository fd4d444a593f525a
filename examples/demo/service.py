"""The full example: every guard of mlguard around a real model. Read it from top to bottom, and copy it.

::

    python -m examples.demo --serve

starts it with keys made for that run. With your own, it starts as any other app::

    umask 077; mkdir secrets audit
    for name in token partner model-key input-key monitor-key MLGUARD_AUDIT_KEY; do
        python -c "import secrets; print(secrets.token_urlsafe(32))" > secrets/$name
    done
    python -c "import asyncio, mlguard; print(asyncio.run(mlguard.Passwords().hash(input())))" > secrets/dora
    openssl ecparam -name prime256v1 -genkey -noout -out model-key.pem
    openssl ec -in model-key.pem -pubout -out model-key.pub
    python -m examples.demo.release models model-key.pem model-key.pub secrets/model-key
    export MLGUARD_API_KEYS_FILE=keys.toml MLGUARD_SECRETS=dir://$PWD/secrets
    mlguard keys new alice --scope predict
    export MLGUARD_AUDIT_LOG=audit MLGUARD_STORE_URL=redis://127.0.0.1:6379/0
    export MODEL_STORE=models MODEL_SIGNER=model-key.pub USUAL_QUERIES=usual-queries.json
    uvicorn --no-server-header examples.demo.service:app

In a container the secrets are files in ``/run/secrets``, and the private key stays where models are released.
"""

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security

from examples.demo.model import ALLOWED, BLACK, CLASSES, NAME, PIXELS, WHITE
from mlguard import (
    Alert,
    Alerts,
    AnyAuth,
    APIKeyAuth,
    APIKeys,
    AuditLog,
    Features,
    Lockdown,
    ModelStore,
    QueryMonitor,
    QueryReference,
    RateLimit,
    ServedModel,
    SignatureAuth,
    TokenIssuer,
    User,
    Users,
    harden,
    install_audit_log,
    secret_source,
    token_router,
    truncate_output,
    verify_model,
)

logging.basicConfig(level=logging.INFO, format="%(levelname)s:  %(message)s")
logging.getLogger("mlguard.audit").propagate = False  # its events go into the audit log, and need not be here too

# Where secrets are: MLGUARD_SECRETS says so, a directory here. Each is read under its name.
secrets = secret_source()

# What is served: the version of the model that was promoted, if it is signed by whoever releases models, if its key
# decrypts it, and if it names nothing but what is allowed. Else the app does not start.
store = ModelStore(
    os.environ["MODEL_STORE"],
    key=Path(os.environ["MODEL_SIGNER"]),
    encryption_key=lambda: secrets.read("model-key"),
)
lockdown = Lockdown()
digits = ServedModel(store, NAME, allow=ALLOWED, follow=lockdown)

app = FastAPI(title="Handwritten digits", lifespan=digits.lifespan)
harden(app)  # errors that say nothing about the inside, headers, body limit, guards before bodies

# What happened: a record of each request, chained by a key, and somebody who is told of what matters. And a switch for
# the day on which that is needed: `mlguard lockdown`.
install_audit_log(app, AuditLog.from_settings(), model=digits, input_key=secrets.read("input-key").get_secret_value())


def tell(alert: Alert) -> None:
    """Stands for a pager: a Webhook(...) would call one."""
    logging.getLogger("alerts").warning("ALERT %s %s", alert.event, dict(alert.facts))


Alerts(tell).install(app)
lockdown.install(app)

# Who is calling: programs by a key from a file that is watched, people by a token for their password, and another
# service by signing each request.
issuer = TokenIssuer(
    {"1": secrets.read("token").get_secret_value()},
    algorithm="HS256",
    issuer="https://digits.example",
    audience="digits",
)
users = Users({"dora": User("dora", secrets.read("dora").get_secret_value(), scopes={"predict"})})
app.include_router(token_router(users, issuer))
caller = AnyAuth(
    APIKeyAuth(APIKeys.from_file()),
    issuer.auth(token_url="token", scopes={"predict": "Ask the model"}),
)
partner = SignatureAuth({"partner": secrets.read("partner").get_secret_value()}, scopes={"partner": {"predict"}})

# How often. One bucket for each caller.
steady = RateLimit("60/minute", "1000/day", by=caller)
partner_steady = RateLimit("600/minute", by=partner)

# What comes in: rows of 64 finite numbers in range. What goes out: three classes, two decimals.
images = Features(columns=PIXELS, low=BLACK, high=WHITE, max_rows=100)
# Who takes the model apart, compared with what is usual: measured where the model was made, and signed as it is.
usual = Path(os.environ["USUAL_QUERIES"])
verify_model(usual, Path(os.environ["MODEL_SIGNER"]))
monitor = QueryMonitor(
    images,
    reference=QueryReference.load(usual),
    by=caller,
    key=secrets.read("monitor-key").get_secret_value(),
)

coarse = truncate_output(decimals=2, top_k=3, scores="probabilities", labels=CLASSES)


@app.post("/predict", dependencies=[Security(caller, scopes=["predict"]), Depends(steady), Depends(monitor)])
@coarse
def predict(x: Annotated[np.ndarray, Depends(images)], model: Annotated[Any, Depends(digits)]) -> dict[str, Any]:
    """The most likely digits of each image."""
    return {"probabilities": model.predict_proba(x)}


@app.post("/partner/predict", dependencies=[Security(partner, scopes=["predict"]), Depends(partner_steady)])
@coarse
def predict_for_partner(
    x: Annotated[np.ndarray, Depends(images)], model: Annotated[Any, Depends(digits)]
) -> dict[str, Any]:
    """The same, for a service that signs its requests."""
    return {"probabilities": model.predict_proba(x)}
