"""A record of what happened that stands up in an investigation: ``AuditLog``."""

import asyncio
import atexit
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from mlguard._numbers import seconds, whole
from mlguard.errors import ConfigurationError, UnavailableError
from mlguard.monitoring import events
from mlguard.monitoring._audit_keys import AuditKey, audit_keys
from mlguard.monitoring._audit_marks import ChainEnd, Flush, Mark
from mlguard.monitoring._audit_records import RecordForm
from mlguard.monitoring._audit_seals import Seals
from mlguard.monitoring._audit_sinks import AuditFiles, LineSink, LinesTo, Sink, checked_folder, to_stdout
from mlguard.monitoring._audit_writer import AuditWriter
from mlguard.monitoring.audit_heads import AuditHeads
from mlguard.monitoring.log_context import RequestIds
from mlguard.monitoring.measurements import Measurement
from mlguard.privacy.redactor import Redactor
from mlguard.privacy.subject_keys import SubjectKeys
from mlguard.settings import load_settings

Durability = Literal["batch", "request"]
OnFailure = Literal["refuse", "drop"]

_ABOUT_ITSELF = "audit."
#: What an event has of the request in which it happened: from a filter of its logger's, or among its facts.
_REQUEST = ("request_id", "trace_id")
_MAX_FACT = 4_096  # characters of a fact that waits
_RETRY_AFTER = 1


class AuditLog:
    """A log of events that shows whether somebody has altered it.

    Each record is one line of canonical JSON (RFC 8785), chained to the one before by HMAC-SHA-256. Each process writes
    a chain of its own, into files that only it writes to. ``mlguard audit-log verify`` tells of every record that was
    edited, moved or removed, and of missing files.

    What it does not prove: whoever has the key can write another log. What they change up to the last signed head does
    show, if you keep heads (``heads=``); and without heads nobody can tell that the end of a chain was cut off. It
    proves nothing about what was never handed to it.

    Handing over an event takes a microsecond: everything else is done by a thread, which starts with the first event,
    so that a server may fork before. Texts are redacted there, once, and made printable and bounded; what says which
    request it was and who asked or acted is not redacted (``request_id``, ``trace_id``, ``input``, ``principal``,
    ``caller``, ``subject``, ``user``, ``address``, ``network``, ``by``, ``what``). The queue holds the events as they
    were handed over: do not change them afterwards.

    An event is lost when its process is killed before it was written: after a few hundredths of a second by default.
    With ``durability="request"`` who handed it over waits until it is on the disk.

    Args:
        directory: Where the files are. It must be there, and be nobody else's. The names of files are
            ``audit-<chain>-<number>.jsonl``.
        key: The secret of the chain, at least 128 bits. Or several, the current one first: the others verify what they
            have chained. Or a :class:`~mlguard.Rotating`.
        sink: In the place of ``directory``: ``"stdout"``, or a function that takes one line, as bytes with its end. It
            is called in the thread; what raises is handed over again.
        durability: ``"batch"``, or ``"request"``: the middleware answers when the record is on the disk.
        on_failure: What happens when it cannot be written (a full disk, a folder that has vanished, a sink that raises
            or hangs). ``"refuse"``: requests are refused with a 503 until it can. ``"drop"``: the service goes on;
            events wait in the queue, and those that find no room are dropped, counted, and told of in the log itself.
        max_queue: How many events may wait, 16 to 1 000 000. Default 32 768.
        max_bytes: A file of this size is followed by another one, 4 096 bytes or more. Default 67 108 864 (64 MiB).
        max_age: So is one of this age, in seconds, at least 1, so that retention can delete old files. Default 86 400.
        heads: Keeps signed heads elsewhere.
        subject_keys: Seals the principal's id, issuer and address with a key of that principal, so that the principal
            can be erased and the chain stays as it is. Addresses of unknown callers, and facts, stay in clear.
        redactor: Takes secrets and personal data out of texts. None: ``Redactor()``.
        timeout: Seconds after which a write that has no end counts as failed, above 0, up to 60. Default 5.
        clock: Seconds since 1970.

    Attributes:
        durability: As it was given.
        on_failure: As it was given.

    Raises:
        ConfigurationError: A setting that cannot work: a folder that is not there or that everybody may write to, a key
            that can be guessed, heads in the folder of the log.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        key: AuditKey,
        sink: Literal["stdout"] | LineSink | None = None,
        durability: Durability = "batch",
        on_failure: OnFailure = "refuse",
        max_queue: int = 32_768,
        max_bytes: int = 67_108_864,
        max_age: float = 86_400.0,
        heads: AuditHeads | None = None,
        subject_keys: SubjectKeys | None = None,
        redactor: Redactor | None = None,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value, choices in (
            ("durability", durability, get_args(Durability)),
            ("on_failure", on_failure, get_args(OnFailure)),
        ):
            if value not in choices:
                raise ConfigurationError(f"AuditLog({name}=...) is one of {', '.join(map(repr, choices))}")
        _check_kinds(heads, subject_keys, redactor)
        self.durability = durability
        self.on_failure = on_failure
        self._timeout = seconds("AuditLog(timeout=...)", timeout, most=60)
        self._max_queue = whole("AuditLog(max_queue=...)", max_queue, least=16, most=1_000_000)
        size = whole("AuditLog(max_bytes=...)", max_bytes, least=4_096)
        age = seconds("AuditLog(max_age=...)", max_age, least=1, most=10 * 365 * 86_400.0)
        keys = audit_keys(key, where="AuditLog(key=...)")
        self._sink = _sink(directory, sink, size, age)
        if heads is not None and _is_same(heads.folder, getattr(self._sink, "folder", None)):
            raise ConfigurationError("AuditHeads(place): another folder than the log's, or both are altered together")
        form = RecordForm(redactor or Redactor())
        self._heads = heads
        self._handler: _Events | None = None
        self._writer = AuditWriter(
            self._sink,
            keys=keys,
            form=form.record if subject_keys is None else Seals(subject_keys, form).record,
            max_queue=self._max_queue,
            timeout=self._timeout,
            heads=heads,
            clock=clock,
        )
        weakref.finalize(self, self._writer.end_soon).atexit = False  # or each that is forgotten leaves a thread behind
        atexit.register(_close_at_exit, weakref.ref(self), weakref.ref(self._writer))

    @classmethod
    def from_settings(cls, **options: Any) -> "AuditLog":
        """The log that ``MLGUARD_AUDIT_LOG`` and ``MLGUARD_AUDIT_KEY`` name.

        Args:
            **options: Further arguments of ``AuditLog``.

        Raises:
            ConfigurationError: One of them is not set, or cannot work.
        """
        settings = load_settings()
        if not settings.audit_log:
            raise ConfigurationError("set MLGUARD_AUDIT_LOG to the folder of the audit log")
        folder = checked_folder(settings.audit_log, where=f"MLGUARD_AUDIT_LOG={settings.audit_log!r}")
        return cls(folder, key=keys_from_settings(), **options)

    def put(self, event: Mapping[str, Any]) -> None:
        """Hand over an event. Never waits and never raises: where there is no room, it is dropped and counted.

        Args:
            event: What happened: ``event`` names it. ``v``, ``chain``, ``seq``, ``time`` and ``mac`` are set here.
        """
        self._writer.put(event)

    async def written(self) -> None:
        """Wait until everything that was put before is on the disk. Those who wait at the same time share one wait.

        Raises:
            UnavailableError: It cannot be written, or not in time, and ``on_failure="refuse"`` (503).
        """
        await self._told(Mark)

    async def end_chain(self) -> None:
        """Write what waits, and say in the log that it ends here; an event that comes later begins another chain.

        For the end of an app, after which a server ends its process as it likes. ``install_audit_log`` sees to it.

        Raises:
            UnavailableError: It cannot be written, or not in time, and ``on_failure="refuse"``.
        """
        if not self._writer.has_ended:  # somebody may have closed it
            await self._told(ChainEnd)

    async def _told(self, kind: type[Mark]) -> None:
        is_written = False
        if not self._writer.is_down:
            mark = kind(asyncio.get_running_loop().create_future())
            self._writer.put_mark(mark)
            try:
                async with asyncio.timeout(self._timeout):
                    is_written = await mark.future
            except TimeoutError:
                is_written = False
        if not is_written and self.on_failure == "refuse":
            raise UnavailableError("the audit log cannot be written", retry_after=_RETRY_AFTER)

    def accepts(self) -> bool:
        """Whether requests may go on: not if the log cannot be written, or is full, and ``on_failure="refuse"``."""
        return self.on_failure == "drop" or not (self._writer.is_down or self._writer.is_full)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything that was put before is on the disk. Blocks: not for the event loop.

        Args:
            timeout: Seconds.

        Returns:
            Whether it is.
        """
        if self._writer.is_down:
            return False
        flush = Flush()
        self._writer.put_mark(flush)
        return flush.told.wait(timeout) and flush.is_written

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits, say in the log that it ends here, and end. Called by itself when the process ends.

        Not by a process that is ended by a signal: there the chain ends with the app, see :meth:`end_chain`.

        Args:
            timeout: Seconds for which to wait. Blocks.

        Returns:
            Whether all is written.
        """
        self.detach()
        return self._writer.close(timeout)

    def attach(self) -> None:
        """Record the events of the logger ``mlguard.audit``: secrets read, models loaded, keys changed.

        Sets that logger to INFO, where it is set to less.
        """
        if self._handler is None:
            self._handler = _Events(self)
            events.logger.addHandler(self._handler)
            if not events.logger.isEnabledFor(logging.INFO):
                events.logger.setLevel(logging.INFO)

    def detach(self) -> None:
        """Record them no more."""
        handler, self._handler = self._handler, None
        if handler is not None:
            events.logger.removeHandler(handler)

    def measurements(self) -> Iterable[Measurement]:
        """What an operator watches: how many events wait, were written and were dropped, and whether it works."""
        writer = self._writer
        yield Measurement("mlguard_audit_queue", writer.waiting)
        yield Measurement("mlguard_audit_queue_max", self._max_queue)
        yield Measurement("mlguard_audit_up", 0 if writer.is_down else 1)
        yield Measurement("mlguard_audit_written", writer.written, kind="counter")
        yield Measurement("mlguard_audit_dropped", writer.dropped, kind="counter")
        yield Measurement("mlguard_audit_failures", writer.failures, kind="counter")
        if self._heads is not None:
            yield Measurement("mlguard_audit_heads", self._heads.kept, kind="counter")
            yield Measurement("mlguard_audit_head_failures", self._heads.failures, kind="counter")

    def __repr__(self) -> str:
        return f"AuditLog(durability={self.durability!r}, on_failure={self.on_failure!r})"


class _Events(logging.Handler):
    """Puts the events of a logger into a log. What is about the log itself would go round in circles, and is left out.

    Args:
        log: Where to.
    """

    redacts = True  # what is written; and who acted on whom stays as it is

    def __init__(self, log: AuditLog) -> None:
        super().__init__(logging.INFO)
        self.addFilter(RequestIds())
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Put one event."""
        event = record.__dict__.get("event")
        facts = record.__dict__.get("facts")
        if not isinstance(event, str) or event.startswith(_ABOUT_ITSELF):
            return
        held = {name: _held(fact) for name, fact in facts.items()} if isinstance(facts, Mapping) else {}
        found = {name: record.__dict__.get(name) or held.pop(name, None) for name in _REQUEST}
        self._log.put({"event": event, **{name: known for name, known in found.items() if known}, "facts": held})


def keys_from_settings() -> AuditKey:
    """The keys in ``MLGUARD_AUDIT_KEY``, separated by commas, the current one first.

    Raises:
        ConfigurationError: It is not set, cannot be read, or can be guessed. The text names the variable.
    """
    secret = load_settings().secret("audit_key").get_secret_value()
    keys = [key.strip() for key in secret.split(",") if key.strip()]
    if not keys:
        raise ConfigurationError("set MLGUARD_AUDIT_KEY to the secret of the audit log")
    audit_keys(keys, where="MLGUARD_AUDIT_KEY")
    return keys


def _held(fact: object) -> object:
    """A fact that may wait in the queue: bounded."""
    return fact[:_MAX_FACT] if isinstance(fact, str) else fact


def _sink(directory: Any, sink: Any, max_bytes: int, max_age: float) -> Sink:
    if (directory is None) == (sink is None):
        raise ConfigurationError("AuditLog(directory) or AuditLog(sink=...): one of them")
    if directory is not None:
        return AuditFiles(directory, max_bytes=max_bytes, max_age=max_age)
    if sink == "stdout":
        return LinesTo(to_stdout)
    if not callable(sink):
        raise ConfigurationError("AuditLog(sink=...) is 'stdout' or a function that takes one line")
    return LinesTo(sink)


def _is_same(one: Path | None, other: Path | None) -> bool:
    """Whether these are one folder, whatever links lead there."""
    return one is not None and other is not None and one.samefile(other)


def _check_kinds(heads: object, subject_keys: object, redactor: object) -> None:
    if not isinstance(heads, AuditHeads | None):
        raise ConfigurationError("AuditLog(heads=...) is AuditHeads(place, key=...)")
    if not isinstance(subject_keys, SubjectKeys | None):
        raise ConfigurationError("AuditLog(subject_keys=...) is SubjectKeys(...)")
    if not isinstance(redactor, Redactor | None):
        raise ConfigurationError("AuditLog(redactor=...) is Redactor(...)")


def _close_at_exit(log: "weakref.ref[AuditLog]", writer: "weakref.ref[AuditWriter]") -> None:
    """Close a log; of one that nobody holds any more, what its thread has still to write."""
    one = log() or writer()
    if one is not None:
        one.close()
