"""The model of a service: loaded from a store when the service starts, which it does not do without."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from mlguard.artifacts._symbols import Name
from mlguard.artifacts.loading import MAX_SIZE
from mlguard.artifacts.model_store import ModelStore, Version
from mlguard.artifacts.model_versions import ModelVersion
from mlguard.errors import UnavailableError
from mlguard.monitoring.events import record_event

_SOON = 5  # seconds


class ServedModel:
    """Loads a model when the app starts, and hands it to endpoints.

    ::

        iris = ServedModel(store, "iris", allow=SKLEARN_FORESTS)
        app = FastAPI(lifespan=iris.lifespan)

        @app.post("/predict")
        def predict(x: Annotated[np.ndarray, Depends(rows)], model: Annotated[Any, Depends(iris)]): ...

    A model that is not signed, or refused by the gate of ``load_model``, stops the start: there is no service without
    it. The version, its digest and its signer go into the log for audits, and to no caller.

    Args:
        store: Where it is.
        name: Of the model.
        version: As for ``ModelStore.find``. ``"promoted"`` is the one that is promoted when the app starts.
        allow: As for ``load_model``.
        format: As for ``load_model``.
        max_size: As for ``load_model``.

    Attributes:
        version: What is served, once the app has started.
    """

    def __init__(
        self,
        store: ModelStore,
        name: str,
        version: Version = "promoted",
        *,
        allow: Iterable[Name] = (),
        format: str | None = None,  # noqa: A002  # as load_model has it
        max_size: int = MAX_SIZE,
    ) -> None:
        self.version: ModelVersion | None = None
        self._store = store
        self._name = name
        self._wanted: Version = version
        self._options: dict[str, Any] = {"allow": frozenset(allow), "format": format, "max_size": max_size}
        self._model: Any = None
        self._running = 0  # apps: one may be mounted in another, and both name this in their lifespans

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:  # noqa: ARG002  # FastAPI passes it
        """For ``FastAPI(lifespan=...)``, or ``async with iris.lifespan(app):`` in a lifespan of your own.

        Raises:
            ModelRefusedError: The model is not the one that it should be.
            ConfigurationError: There is none.
        """
        self._model, version = await asyncio.to_thread(self._load)
        self.version = version
        self._running += 1
        record_event(
            "model.served", model=version.name, version=version.version, digest=version.digest, signer=version.signer
        )
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._model = self.version = None

    async def __call__(self) -> Any:
        """The model.

        Raises:
            UnavailableError: The app was started without :meth:`lifespan` (503).
        """
        if self.version is None:
            raise UnavailableError("the model was not loaded: pass FastAPI(lifespan=....lifespan)", retry_after=_SOON)
        return self._model

    def _load(self) -> tuple[Any, ModelVersion]:
        version = self._store.find(self._name, self._wanted)
        return self._store.load_version(version, **self._options), version
