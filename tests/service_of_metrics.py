"""A service whose workers keep metrics for Prometheus, each answer of which says in which."""

import os

from fastapi import Depends, FastAPI, Security

from mlguard import (
    APIKeyAuth,
    APIKeys,
    Measurement,
    MemoryStore,
    PrometheusMetrics,
    RateLimit,
    harden,
    install_metrics,
)


class Queue:
    """A queue as long as the last digit of the worker's process id, and a counter of what has come."""

    came = 0

    def measurements(self) -> list[Measurement]:
        """Its numbers."""
        length = Measurement("mlguard_test_queue", os.getpid())
        return [length, Measurement("mlguard_test_came", self.came, {"kind": "test"}, "counter")]


queue = Queue()
app = FastAPI()
harden(app)
operator = APIKeyAuth(APIKeys.from_env())
prometheus = PrometheusMetrics()
install_metrics(app, to=prometheus, watch=[queue], timed_per_second=1e6, every=0.05)
app.include_router(prometheus.router(dependencies=[Security(operator, scopes=["metrics"])]))


@app.get("/x", dependencies=[Depends(RateLimit("1000/minute", store=MemoryStore()))])
async def x() -> int:
    """The process that has answered."""
    queue.came += 1
    return os.getpid()
