"""A service that counts where the environment says, to be run in several processes."""

from fastapi import Depends, FastAPI

from mlguard import RateLimit, harden

app = FastAPI()
harden(app)


@app.get("/", dependencies=[Depends(RateLimit("5/minute"))])
async def count() -> None:
    """One unit."""
