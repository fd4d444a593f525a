"""The model of a service: loaded from a store when the service starts, which it does not do without."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NamedTuple, Protocol

from mlguard.artifacts._symbols import Name
from mlguard.artifacts.loading import MAX_SIZE
from mlguard.artifacts.model_store import ModelStore, Version
from mlguard.artifacts.model_versions import ModelVersion
from mlguard.errors import UnavailableError
from mlguard.monitoring.events import record_event

logger = logging.getLogger("mlguard")

_SOON = 5  # seconds
_LOOK = 0.1  # seconds between two looks at what is pinned, which is in this process's memory
_RETRY = 30.0  # seconds after which a version that was refused is tried again


class Pins(Protocol):
    """What says which version is pinned: a :class:`~mlguard.Lockdown`."""

    @property
    def knows(self) -> bool:
        """Whether it has found out."""

    async def start(self) -> None:
        """Find out, and go on doing so in this event loop."""

    def pinned(self, model: str) -> int | None:
        """The version of a model that is to be served in the place of the one that was asked for."""


class _Served(NamedTuple):
    """A model, and which version it is: replaced together."""

    model: Any
    version: ModelVersion


class ServedModel:
    """Loads a model when the app starts, and hands it to endpoints.

    ::

        iris = ServedModel(store, "iris", allow=SKLEARN_FORESTS)
        app = FastAPI(lifespan=iris.lifespan)

        @app.post("/predict")
        def predict(x: Annotated[np.ndarray, Depends(rows)], model: Annotated[Any, Depends(iris)]): ...

    A model that is not signed, or refused by the gate of ``load_model``, stops the start: there is no service without
    it. So does a lifespan that was forgotten, under ``harden``. The version, its digest and its signer go into the log
    for audits, and to no caller.

    With ``follow=lockdown`` it serves what ``mlguard lockdown pin`` says, and when the pin is lifted what ``version``
    says then. Another version is loaded in a thread, through the same gate, while the one before is served, and both
    take room meanwhile. A request goes on with the model that it began with. A version that is refused changes nothing:
    the one before is served on, ``model.kept`` is in the log for audits, and it is tried again in half a minute. So
    a pin does not by itself stop a model that is served: where no other version is to be had, block the route. What was
    loaded at the start while nobody could say what is pinned is not served once another version turns out to be.

    Args:
        store: Where it is.
        name: Of the model.
        version: As for ``ModelStore.find``. ``"promoted"`` is the one that is promoted when the app starts.
        allow: As for ``load_model``.
        format: As for ``load_model``.
        max_size: As for ``load_model``.
        follow: A :class:`~mlguard.Lockdown` whose pins it follows. None: it serves to the end what it has begun with.
        clock: Seconds, never going backwards; for tests.
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
        follow: Pins | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._name = name
        self._wanted: Version = version
        self._options: dict[str, Any] = {"allow": frozenset(allow), "format": format, "max_size": max_size}
        self._follow = follow
        self._clock = clock
        self._served: _Served | None = None
        self._lock = threading.Lock()  # to be held while loading
        #: What is served, as it was asked for: a number, or the words for one.
        self._target: Version = version
        #: What was refused, and when it is tried again.
        self._refused: tuple[Version, float] | None = None
        #: Whether what is served was chosen when nobody could say what is pinned.
        self._is_guess = False
        self._running = 0  # apps: one may be mounted in another, and both name this in their lifespans

    @property
    def version(self) -> ModelVersion | None:
        """What is served, once the app has started."""
        return self._served.version if self._served is not None else None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:  # noqa: ARG002  # FastAPI passes it
        """For ``FastAPI(lifespan=...)``, or ``async with iris.lifespan(app):`` in a lifespan of your own.

        Raises:
            ModelRefusedError: The model is not the one that it should be.
            ConfigurationError: There is none.
        """
        if self._follow is not None:
            await self._follow.start()
        await asyncio.to_thread(self._load_first, self._wanted_now())
        self._running += 1
        following = asyncio.create_task(self._follow_pins())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])
            self._running -= 1
            if not self._running:
                self._served = None

    async def __call__(self) -> Any:
        """The model.

        Raises:
            UnavailableError: The app was started without :meth:`lifespan`, or before anybody could say that another
                version is pinned, which is not loaded yet (503).
        """
        if self._served is None:
            raise UnavailableError("the model was not loaded: pass FastAPI(lifespan=....lifespan)", retry_after=_SOON)
        if self._is_guess and self._wanted_now() != self._target:
            raise UnavailableError("another version of the model is pinned, and not loaded yet", retry_after=_SOON)
        return self._served.model

    def _wanted_now(self) -> Version:
        pinned = self._follow.pinned(self._name) if self._follow is not None else None
        return self._wanted if pinned is None else pinned

    def _load_first(self, target: Version) -> None:
        with self._lock:
            self._serve(self._load(target), target)

    def _load(self, target: Version) -> _Served:
        version = self._store.find(self._name, target)
        return _Served(self._store.load_version(version, **self._options), version)

    def _serve(self, served: _Served, target: Version) -> None:
        """Serve what was loaded from now on."""
        self._is_guess = self._follow is not None and not self._follow.knows
        self._served, self._target, self._refused = served, target, None
        version = served.version
        record_event(
            "model.served", model=version.name, version=version.version, digest=version.digest, signer=version.signer
        )

    async def _follow_pins(self) -> None:
        while self._follow is not None:
            await asyncio.sleep(_LOOK)
            target = self._wanted_now()
            if target != self._target and not self._was_refused(target):
                with contextlib.suppress(Exception):  # of somebody's log handler: pins are to be followed on
                    await asyncio.to_thread(self._try, target)

    def _was_refused(self, target: Version) -> bool:
        return self._refused is not None and self._refused[0] == target and self._clock() < self._refused[1]

    def _try(self, target: Version) -> None:
        """Load a version; if that cannot be, go on with the one before."""
        with self._lock:
            if target == self._target or self._was_refused(target) or self._served is None:
                return  # another app of this process was quicker, or all have ended
            serving = self._served.version.version
            try:
                served = self._load(target)
            except Exception as error:
                is_new = self._refused is None or self._refused[0] != target
                self._refused = target, self._clock() + _RETRY
                if is_new:
                    why = type(error).__name__
                    record_event("model.kept", model=self._name, version=serving, refused=target, why=why)
                    logger.error(
                        "version %s of %s is refused; %s is served on", target, self._name, serving, exc_info=error
                    )
                return
            self._serve(served, target)
