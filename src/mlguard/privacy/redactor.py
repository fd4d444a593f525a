"""One object that keeps personal data and secrets out of logs, audits, errors and data."""

import logging
import traceback
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from mlguard.errors import ConfigurationError
from mlguard.privacy._data_walks import DataWalk
from mlguard.privacy._masked_text import masked_text
from mlguard.privacy.masks import Mask, label
from mlguard.privacy.pii_search import PIISearch

T = TypeVar("T")

_FAILED = "[a record that could not be redacted]"
_UNFIT = "[its arguments do not fit]"
_ACCESS_LOG = "uvicorn.access"
_ACCESS_ARGUMENTS = 5  # client, method, path, version of HTTP, status
# What a record has by itself. Everything else came with extra=...
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_DATA = (Mapping, list, tuple, set, frozenset, BaseModel)
_TRACEBACKS = logging.Formatter()
_MAX_CAUSES = 16


class Redactor:
    """Keeps personal data and secrets out of what is written: logs, the audit, texts of errors, and data.

    It is a filter for logs. Added to a handler, it redacts the records of all loggers that come by there: message and
    arguments together, traceback, stack and what came with ``extra=``. The record itself is changed, so that handlers
    that come later get it redacted too. An exception is kept as text only. If a record cannot be redacted, nothing of
    it is written, and nobody who logs gets an exception::

        for handler in logging.getLogger().handlers:
            handler.addFilter(redactor)

    It finds what ``PIISearch`` finds, and misses what that misses: do not log what need not be there.

    Args:
        search: What to look for. None: ``PIISearch()``.
        mask: What stands in its place, as for ``mask_pii``.

    Raises:
        ConfigurationError: A search that is none, or a mask that cannot be called.
    """

    def __init__(self, *, search: PIISearch | None = None, mask: Mask = label) -> None:
        if not isinstance(search, PIISearch | None) or not callable(mask):
            raise ConfigurationError("Redactor(search=...) is a PIISearch(...), and mask=... says what is shown")
        self.search = search or PIISearch()
        self._mask = mask

    def text(self, text: str) -> str:
        """The text without personal data and secrets. The same text, if it has none."""
        spans = self.search.spans(text)
        return masked_text(text, spans, self.search, self._mask) if spans else text

    def data(self, data: T) -> T:
        """A copy of the data without them, as ``mask_pii`` makes it."""
        copied: T = DataWalk(self.search, self._mask).copied(data)
        return copied

    def error(self, error: BaseException) -> str:
        """The text of an error without them: its type and what it says, and those of what caused it. No traceback."""
        said: list[str] = []
        cause: BaseException | None = error
        while cause is not None and len(said) < _MAX_CAUSES:
            said.append("".join(traceback.format_exception_only(cause)).strip())
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        return self.text(" <- ".join(said))

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record of a log, and let it pass. It is what ``logging`` calls."""
        try:
            self._redact(record)
        except Exception:  # whoever logs has done nothing wrong, and it may be anything
            record.msg, record.args = _FAILED, ()
            record.exc_info = record.exc_text = record.stack_info = None
            vars(record).update(dict.fromkeys(vars(record).keys() - _OWN, _FAILED))
        return True

    def _redact(self, record: logging.LogRecord) -> None:
        record.msg = self._by_names(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple([self._by_names(one) for one in record.args])
        elif record.args:  # logging takes a mapping that is the only argument out of its tuple
            record.args = self.data(record.args)
        said = _said(record)
        redacted = self.text(said)
        if redacted != said:
            self._replace(record, redacted)
        if record.exc_info:
            if record.exc_info[0] and not record.exc_text:
                record.exc_text = _TRACEBACKS.formatException(record.exc_info)
            record.exc_info = None
        if record.exc_text:
            record.exc_text = self.text(record.exc_text)
        if record.stack_info:
            record.stack_info = self.text(record.stack_info)
        extra = vars(record).keys() - _OWN
        if extra:
            masked = self.data({name: vars(record)[name] for name in extra})
            for name in extra - masked.keys():
                del vars(record)[name]
            vars(record).update(masked)

    def _by_names(self, value: Any) -> Any:
        """Data as data, because in a text names of fields say less."""
        return self.data(value) if not isinstance(value, str) and isinstance(value, _DATA) else value

    def _replace(self, record: logging.LogRecord, redacted: str) -> None:
        """Make the record say this. In its arguments, if they alone do it, for a formatter may want to see them."""
        if isinstance(record.args, tuple):
            record.args = tuple([self.text(one) if isinstance(one, str) else one for one in record.args])
        if not _is_line_of_access(record) and _said(record) != redacted:
            record.msg, record.args = redacted, ()


def _is_line_of_access(record: logging.LogRecord) -> bool:
    """Whether uvicorn writes it from its arguments alone, and so needs all five."""
    return record.name == _ACCESS_LOG and isinstance(record.args, tuple) and len(record.args) == _ACCESS_ARGUMENTS


def _said(record: logging.LogRecord) -> str:
    """The message. Where its arguments do not fit, the message without them: logging would print both to stderr."""
    try:
        return record.getMessage()
    except Exception:
        record.msg, record.args = f"{record.msg} {_UNFIT}", ()
        return record.getMessage()
