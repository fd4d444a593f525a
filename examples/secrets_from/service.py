"""What the examples beside this file serve: an endpoint for a partner who signs requests.

The secret of the signatures is read when the service is built, so a service without it does not start. Each read is a
line on the logger ``mlguard.audit``: the name and the source, never the value.
"""

from fastapi import Depends, FastAPI

from mlguard import SecretSource, SignatureAuth, harden


def make_service(source: SecretSource, name: str) -> FastAPI:
    """The service.

    Args:
        source: Where the secret is read from.
        name: What the secret is called there.
    """
    app = FastAPI()
    harden(app)
    partner = SignatureAuth({"partner": source.read(name).get_secret_value()})

    @app.get("/ready", dependencies=[Depends(partner)])
    def ready() -> dict[str, bool]:
        """Whether there is an answer; ``predict`` would stand here."""
        return {"ready": True}

    return app
