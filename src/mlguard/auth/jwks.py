"""Keys that an identity provider publishes and changes: loaded in the background, kept while the provider is down.

Requests use the keys that are there. Whoever finds them due for a refresh starts one in a thread, and goes on. A
request waits in three cases only, and for no longer than one fetch may take: there are no usable keys at all, nobody
has asked for so long that they may have changed, or a token names a key that is not known and may be new.
"""

import asyncio
import logging
import math
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

from mlguard._loading import Loading
from mlguard._numbers import seconds
from mlguard.auth._jwt_keys import KeyHealth, Keys, checked_algorithms
from mlguard.auth._key_sets import KeySet, KeySetError, read_key_set
from mlguard.auth._key_sources import KeyFile, KeySource, KeyURL
from mlguard.errors import ConfigurationError, KeysUnavailableError

logger = logging.getLogger("mlguard")

_DAY = 86_400.0
_UNKNOWN_KID_INTERVAL = 30.0


class PublishedKeys:
    """The keys of a JWK Set that changes.

    Thread-safe, and bound to no event loop.

    Args:
        source: Where the set comes from.
        algorithms: Which algorithms are used. None of them is symmetric: what is published is no secret.
        refresh_every: Seconds between two loads, 1 to 86 400. Up to a tenth less, so that many processes do not all ask
            at once.
        max_stale: Seconds for which keys are used that can no longer be loaded, at least ``refresh_every``.
        timeout: Seconds that a load may take, and a request may wait for one, up to 60.
        strict: Whether a faulty key in the set fails the load. Else it is left out, and logged.
        clock: Seconds, never going backwards.

    Raises:
        ConfigurationError: A setting that cannot work.
    """

    def __init__(
        self,
        source: KeySource,
        algorithms: object,
        *,
        refresh_every: float,
        max_stale: float,
        timeout: float,
        strict: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._algorithms = checked_algorithms(algorithms)
        if any(name.startswith("HS") for name in self._algorithms):
            raise ConfigurationError("algorithms: HS256, HS384 and HS512 need a secret, and published keys are none")
        self._refresh_every = seconds("refresh_every", refresh_every, least=1, most=_DAY)
        self._max_stale = seconds("max_stale", max_stale, least=self._refresh_every, most=30 * _DAY)
        self._timeout = seconds("timeout", timeout, least=0.001, most=60)
        self._source = source
        self._strict = strict
        self._clock = clock
        self._document: bytes | None = None
        self._keys: Keys | None = None
        self._faults: tuple[str, ...] = ()
        self._unknown_kid_at = -math.inf
        self._loads = Loading(
            self._load,
            failed=self._tell,
            every=self._refresh_every,
            max_stale=self._max_stale,
            speaking=KeySetError,
            name="mlguard-keys",
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"keys of {self._source} for {', '.join(self._algorithms)}"

    @property
    def health(self) -> KeyHealth:
        """Whether tokens can be verified at the moment, and with what."""
        keys, loads = self._keys, self._loads
        age = None if keys is None else self._clock() - loads.loaded_at
        return KeyHealth(len(keys) if keys is not None and loads.is_usable else 0, age, loads.failure)

    def check(self) -> None:
        """Load the keys at start-up, so that the first caller finds them there.

        A provider that is down does not keep the service from starting: until there are keys, every token is refused.

        Raises:
            ConfigurationError: The provider answers, and says that the setting is wrong.
        """
        loading = self._loads.begin() if self._keys is None else None
        if loading is not None:
            with suppress(TimeoutError):
                loading.result(self._timeout + 1)  # it ends by itself before that
        if self._keys is None and self._loads.mistake is not None:
            raise ConfigurationError(self._loads.mistake)

    def load_now(self) -> None:
        """Load the keys in this thread.

        Raises:
            ConfigurationError: They cannot be had.
        """
        self._loads.now()
        if self._loads.failure is not None:
            raise ConfigurationError(f"{self._source}: {self._loads.failure}")

    def fresh(self) -> Keys | None:
        """The keys, if there is nothing to be done about them."""
        return self._keys if self._clock() < self._loads.fresh_until else None

    async def newer_than(self, seen: Keys | None) -> Keys:
        """The keys after whatever has to be done about them.

        Args:
            seen: Keys that lack the one that a token names: they are loaded again, unless that was done a moment ago.
                None: whatever keys there are will do.

        Raises:
            KeysUnavailableError: There are none, or they are too old (503).
        """
        if seen is not None and self._keys is not seen:
            return self._usable()
        loading = self._loads.begin(None if seen is None else self._unknown_kid_is_due)
        if loading is not None and (seen is not None or self._are_needed_now()):
            await _done(loading, self._timeout)
        return self._usable()

    def _are_needed_now(self) -> bool:
        """Whether the keys that there are will not do: none, too old, or not looked after because nobody asked."""
        age = self._clock() - self._loads.loaded_at
        return age >= self._max_stale or (age >= 2 * self._refresh_every and self._loads.failure is None)

    def _usable(self) -> Keys:
        keys = self._keys
        if keys is None or not self._loads.is_usable:
            raise KeysUnavailableError(f"no usable keys of {self._source}", retry_after=self._loads.retry_after)
        return keys

    def _unknown_kid_is_due(self, now: float) -> bool:
        """Unknown kids have a time of their own.

        A key that is new right after a load is found at once, and a flood of them loads once an interval.
        """
        if now < self._unknown_kid_at + min(_UNKNOWN_KID_INTERVAL, self._refresh_every):
            return False
        self._unknown_kid_at = now
        return True

    # Loading ----------------------------------------------------------------------------------------------------------

    def _load(self) -> Callable[[], None]:
        """Read the document, and the keys in it if they are not the ones that there are."""
        document = self._source.read(self._timeout)
        found: KeySet | None = None
        if document != self._document:
            found = read_key_set(document, self._algorithms)
            if self._strict and found.faults:
                raise KeySetError("; ".join(found.faults))
        return partial(self._take, document, found)

    def _take(self, document: bytes, found: KeySet | None) -> None:
        if self._loads.failure is not None or self._keys is None:
            logger.info("keys of %s: loaded", self._source)
        if found is not None:
            if found.faults and found.faults != self._faults:
                logger.warning("keys of %s: %s", self._source, "; ".join(found.faults))
            self._document, self._keys, self._faults = document, found.keys, found.faults

    def _tell(self, failure: str, news: bool) -> None:
        if news:
            kept = "those of before are used, for some time" if self._loads.is_usable else "no token is let in"
            logger.error("keys of %s: not loaded: %s; %s", self._source, failure, kept)


async def _done(loading: Future[None], seconds: float) -> None:
    """Wait for a load in another thread, for so many seconds."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def tell(_: Future[None]) -> None:
        with suppress(RuntimeError):  # that loop has ended
            loop.call_soon_threadsafe(done.set)

    loading.add_done_callback(tell)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await done.wait()


def keys_from(
    source: object, algorithms: object, *, refresh_every: float | None, max_stale: float, timeout: float
) -> PublishedKeys:
    """The keys of a JWK Set at a URL, or in a file, which must hold usable ones now.

    Args:
        source: An https URL (http for this machine only), or the path of a file.
        algorithms: As for :class:`PublishedKeys`.
        refresh_every: The same. None is 300 for a URL, and 1 for a file.
        max_stale: The same.
        timeout: The same.

    Raises:
        ConfigurationError: A setting that cannot work, or a file that cannot be read or whose keys cannot be used.
    """
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        every = 300 if refresh_every is None else refresh_every
        return PublishedKeys(KeyURL(source), algorithms, refresh_every=every, max_stale=max_stale, timeout=timeout)
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise ConfigurationError("JWTAuth.from_jwks takes an https URL or the path of a file")
    keys = PublishedKeys(
        KeyFile(Path(source)),
        algorithms,
        refresh_every=1 if refresh_every is None else refresh_every,
        max_stale=max_stale,
        timeout=timeout,
        strict=True,
    )
    keys.load_now()
    return keys
