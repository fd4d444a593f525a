"""A secret that changes while the service runs: read again in the background, and replaced for all at once."""

import math
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

from pydantic import SecretStr

from mlguard._loading import Loading
from mlguard._lookout import Lookout
from mlguard._numbers import seconds
from mlguard.auth._watched_file import FileHealth
from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError, KeysUnavailableError, SecretUnavailableError
from mlguard.monitoring.events import record_event
from mlguard.problems import logger
from mlguard.secrets._answers import Unusable, judged
from mlguard.secrets.source import SecretSource

T = TypeVar("T")

#: The values that are accepted, the current one first.
Values = tuple[SecretStr, ...]

_DAY = 86_400.0
_LONGEST_NAME = 512
_MOST = 1_048_576  # bytes; sources of mlguard's own stop far earlier
_SHORTEST_WAIT = 0.05  # seconds between two looks


class Rotating:
    """A secret that is read again while the service runs, and in use without a restart.

    It is read once when this is built, and no service starts without it. From then on a thread reads it again every
    ``ttl`` seconds; a request never waits for that. A new value is checked by everything that uses the secret (is it
    strong enough, a key of the right kind, a list of API keys?), and then takes effect for all of it, or for none. The
    value before stays accepted for ``overlap`` seconds, so that callers, and other processes that have not read the new
    one yet, can go on.

    While the source cannot be asked, or what it says cannot be used (nothing, a page of HTML, a weak secret, half a
    key), the last good value stays in use, for ``max_stale`` seconds since it was read. Each failed attempt, at least
    one a minute, is an error in the log and a ``secret.stale`` event. After that, who needs the secret is refused with
    a 503, and the event is ``secret.unavailable``. A change is the event ``secret.rotated``. Events and log have the
    name of the secret, and never a value or a digest of one.

    It does not see that a secret was stolen. Who has the value before gets in until the overlap is over, unless it is
    0. A value that comes back is current again: a source whose replicas disagree keeps both alive. A third value ends
    the overlap of the first one. With several processes, each reads for itself: a change has reached all of them after
    ``ttl`` seconds.

    Used with :class:`~mlguard.APIKeys`, :class:`~mlguard.JWTAuth`, :class:`~mlguard.SignatureAuth` and
    :class:`~mlguard.TokenIssuer`; for anything else there are :attr:`current`, :meth:`values` and :meth:`derive`.

    The thread starts at the first use in each process, so that a server may fork before, and ends with this object.

    Args:
        source: Where the secret is, such as ``DirectorySecrets("/run/secrets")``: anything with a method ``read``.
        name: What it is called there. It is in logs and events.
        ttl: Seconds between two reads, 1 to 86 400. Up to a tenth less, so that many processes do not all ask at once.
            Default 300.
        overlap: Seconds for which the value before is accepted after a change was seen, 0 to 2 592 000 (30 days). At
            least ``ttl`` lets processes that share a secret differ for that long. Default 3 600.
        max_stale: Seconds for which a value is used that cannot be read again, at least ``ttl``, at most 30 days.
            Default 86 400.
        timeout: Seconds after which a read that has no end counts as failed, up to 60. Default 30.
        clock: Seconds, never going backwards; for tests.

    Raises:
        ConfigurationError: When built: the secret cannot be read, or a setting cannot work.
        KeysUnavailableError: When used: the value is older than ``max_stale`` (503).
    """

    def __init__(
        self,
        source: SecretSource,
        name: str,
        *,
        ttl: float = 300,
        overlap: float = 3_600,
        max_stale: float = 86_400,
        timeout: float = 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not callable(getattr(source, "read", None)):
            raise ConfigurationError("Rotating(source) has a method read(name), such as DirectorySecrets(path) has")
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME or " " in name:
            raise ConfigurationError("Rotating(source, name): the name of the secret, as the source has it")
        self.name = name
        self._source = source
        self._ttl = seconds("Rotating(ttl=...)", ttl, least=1, most=_DAY)
        self._overlap = seconds("Rotating(overlap=...)", overlap, least=0, most=30 * _DAY)
        self._max_stale = seconds("Rotating(max_stale=...)", max_stale, least=self._ttl, most=30 * _DAY)
        self._timeout = seconds("Rotating(timeout=...)", timeout, least=0.001, most=60)
        self._clock = clock
        self._lock = threading.Lock()
        self._values: Values = ()
        self._changed_at = self._overlap_until = -math.inf
        self._derived: weakref.WeakSet[Derived[object]] = weakref.WeakSet()
        self._plain: Derived[Values] | None = None
        self._lookout = Lookout(self, "mlguard-secret-watch")
        self._loads = Loading(
            self._read,
            failed=self._alarm,
            every=self._ttl,
            max_stale=self._max_stale,
            speaking=SecretUnavailableError,
            name="mlguard-secret-read",
            clock=clock,
        )
        self._wait_for(self._loads.begin())
        if not self._values:
            raise ConfigurationError(f"Rotating: the secret {name!r} cannot be read: {self._loads.failure}")

    @property
    def current(self) -> SecretStr:
        """The value, checked as a shared secret is: strong, and none that is printed somewhere."""
        return self.values()[0]

    @property
    def previous(self) -> SecretStr | None:
        """The value before, while it is accepted."""
        values = self.values()
        return values[1] if len(values) > 1 else None

    def values(self) -> Values:
        """What is accepted: the current value, and the one before it while the overlap lasts.

        To be handed to what takes a function that returns keys.

        Raises:
            ConfigurationError: The first time: the value is too weak for a shared secret. From then on a weak one is
                not taken.
            KeysUnavailableError: The value is too old (503).
        """
        if self._plain is None:
            self._plain = self.derive(partial(_checked, where=f"the secret {self.name!r}"))
        return self._plain.value

    def derive(self, make: Callable[[Values], T]) -> "Derived[T]":
        """What is made of the secret, anew whenever it changes: keys, a table, a client.

        Args:
            make: Makes it of the values that are accepted, one or two, the current one first. Called in the thread that
                reads the secret, never by a request. What it refuses with ``ConfigurationError`` does not take effect
                anywhere. It must not ask this object.

        Raises:
            ConfigurationError: ``make`` refuses the value that there is now.
        """
        derived = Derived(self, make)
        with self._lock:
            current, *before = self._values
            if self._clock() >= self._overlap_until:
                before = []
            derived.take(derived.made_of((current, *before)), self._overlap_until)
            self._derived.add(derived)  # type: ignore[arg-type]  # whatever it makes
        return derived

    @property
    def is_settled(self) -> bool:
        """Whether other processes have had the time to see the current value: it is older than ``ttl``."""
        return self._clock() >= self._changed_at + self._ttl

    @property
    def is_usable(self) -> bool:
        """Whether the value may still be used."""
        return self._loads.is_usable

    @property
    def age(self) -> float:
        """Seconds since the value was read."""
        return self._clock() - self._loads.loaded_at

    @property
    def health(self) -> FileHealth:
        """Whether the value in use is what the source says: ``ok``, ``loaded_at`` and ``error``. No value is in it."""
        self.watch()
        loaded_at = datetime.now(UTC) - timedelta(seconds=self.age)
        return FileHealth(self._loads.failure is None, loaded_at, self._loads.failure)

    def refresh(self) -> None:
        """Read the secret now, and wait for it, ``timeout`` seconds at most. Blocks: not for the event loop.

        A read that is under way is waited for first, as long again, and if it ends, the secret is read once more. A
        failure is in :attr:`health`, and in the log.
        """
        has_begun = False

        def at_once(_: float) -> bool:
            nonlocal has_begun
            has_begun = True
            return True

        running = self._loads.begin(at_once)
        self._wait_for(running)
        # A read that was under way may have asked before the change that this is about. One that has no end is not
        # waited for twice.
        if not has_begun and running is not None and running.done():
            self._wait_for(self._loads.begin(at_once))

    def too_old(self) -> KeysUnavailableError:
        """The refusal of who needs a value that may not be used any more (503)."""
        return KeysUnavailableError(
            f"the secret {self.name!r} was not read for {self._max_stale:g} seconds",
            retry_after=self._loads.retry_after,
        )

    def __repr__(self) -> str:
        return f"Rotating({self.name!r} of {type(self._source).__name__})"

    # In the background ------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Have the thread running, if it does not yet in this process."""
        if self._lookout.is_out:
            return
        with self._lock:
            if not self._lookout.is_out:
                self._lookout.send()
        if not self._lookout.is_out:  # where there can be no thread now, perhaps there can be one later
            self._loads.begin()

    def look(self) -> float:
        """What the thread does: read the secret if that is due, and let go of the value before.

        Returns:
            Seconds until the next look.
        """
        self._let_go()
        self._wait_for(self._loads.begin())
        return max(self._loads.due_at - self._clock(), _SHORTEST_WAIT)

    def restart_in_child(self) -> None:
        """After a fork, in the child: the lock is as the parent's thread had it."""
        self._lock = threading.Lock()

    def _wait_for(self, running: Future[None] | None) -> None:
        if running is not None:
            try:
                running.result(self._timeout)
            except TimeoutError:
                self._loads.put_off(running, f"the source has not answered within {self._timeout:g} seconds")

    def _let_go(self) -> None:
        with self._lock:
            if len(self._values) > 1 and self._clock() >= self._overlap_until:
                self._values = self._values[:1]
                for derived in self._derived:
                    derived.let_go()

    def _read(self) -> Callable[[], None]:
        """Read the secret, and have it take effect if everything that uses it can."""
        value = _text(self._source.read(self.name), where=f"the secret {self.name!r}")
        with self._lock:
            before = self._values[:1]
            if before and before[0].get_secret_value() == value.get_secret_value():
                return _nothing_more
            now = self._clock()
            values: Values = (value, *(before if self._overlap else ()))
            made = [(derived, derived.made_of(values)) for derived in self._derived]
            # From here on nothing fails. The values last: in the child of a fork half way, all of it is done again.
            for derived, versions in made:
                derived.take(versions, now + self._overlap)
            self._values, self._changed_at, self._overlap_until = values, now, now + self._overlap
        if before:
            logger.warning("secret %r: a new value is in effect", self.name)
            record_event("secret.rotated", name=self.name, source=type(self._source).__name__, overlap=self._overlap)
        return _nothing_more

    def _alarm(self, failure: str, _: bool) -> None:
        """Tell of each failure, and not only of the first: somebody must act before the value is too old."""
        if not self._values:  # at start-up, which ends with this
            return
        age = self.age
        event = "secret.stale" if self._loads.is_usable else "secret.unavailable"
        if event == "secret.stale":
            left = self._max_stale - age
            logger.error(
                "secret %r: no usable value: %s; the last good one is used for %d s more", self.name, failure, left
            )
        else:
            logger.critical("secret %r: no usable value: %s; who needs it is refused (503)", self.name, failure)
        record_event(event, name=self.name, source=type(self._source).__name__, age=round(age))


class Derived(Generic[T]):
    """What was made of a secret that changes. See :meth:`Rotating.derive`.

    Args:
        secret: The secret.
        make: Makes it.
    """

    def __init__(self, secret: Rotating, make: Callable[[Values], T]) -> None:
        self.secret = secret
        self._make = make
        # Replaced as one, so that no thread sees half of a change: what holds during the overlap, until when, and what
        # holds after it.
        self._versions: tuple[T, float, T]

    @property
    def value(self) -> T:
        """What was made of the values that are accepted now. The same object until that changes.

        Raises:
            KeysUnavailableError: The secret was not read for too long (503).
        """
        secret = self.secret
        if not secret._lookout.is_out:
            secret.watch()
        during, until, after = self._versions
        now = secret._clock()
        if now >= secret._loads.loaded_at + secret._max_stale:
            raise secret.too_old()
        return during if now < until else after

    def __call__(self) -> T:
        """The same, for what takes a function."""
        return self.value

    @property
    def health(self) -> FileHealth:
        """Whether it is made of what the source says."""
        return self.secret.health

    def refresh(self) -> None:
        """Read the secret now. See :meth:`Rotating.refresh`."""
        self.secret.refresh()

    def __repr__(self) -> str:
        return f"Derived({self.secret!r})"

    # For the secret ---------------------------------------------------------------------------------------------------

    def made_of(self, values: Values) -> tuple[T, T]:
        """What holds while the value before is accepted, and what holds after that.

        Raises:
            ConfigurationError: The current value cannot be used. One before that cannot be is left out.
        """
        after = self._made(values[:1])
        during = after
        if len(values) > 1:
            with suppress(ConfigurationError):
                during = self._made(values)
        return during, after

    def _made(self, values: Values) -> T:
        try:
            return self._make(values)
        except ConfigurationError:
            raise
        except Exception as error:  # a parser's own, which may quote what it read
            kind = type(error).__name__
        raise ConfigurationError(f"the secret {self.secret.name!r} cannot be used ({kind})")

    def take(self, versions: tuple[T, T], until: float) -> None:
        """Put a change into effect."""
        during, after = versions
        self._versions = (during, until, after)

    def let_go(self) -> None:
        """Forget what was made of the value before."""
        _, until, after = self._versions
        self._versions = (after, until, after)


def _nothing_more() -> None:
    """The value has taken its place already."""


def _text(value: object, *, where: str) -> SecretStr:
    """The value that a source has given, if it can be one, without white space around it.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(value, SecretStr):
        raise ConfigurationError(f"{where}: the source gave something else than a SecretStr")
    try:
        return SecretStr(judged(value.get_secret_value(), most=_MOST).strip())
    except Unusable as error:
        reason = str(error)
    raise ConfigurationError(f"{where}: {reason}")


def _checked(values: Values, *, where: str) -> Values:
    for value in values:
        secret_bytes(value.get_secret_value(), where=where)
    return values
