"""One object for logs, audit, errors and data."""

import io
import logging
import logging.config
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.logging import AccessFormatter

from mlguard import ConfigurationError, KeepLast, PIISearch, Redactor
from mlguard.monitoring.events import record_event

REDACTOR = Redactor()
CARD = "4111111111111111"


class Log:
    """A real logger with a real handler, whose filter is the redactor."""

    def __init__(self, logger: logging.Logger) -> None:
        self.written = io.StringIO()
        self.handler = logging.StreamHandler(self.written)
        self.handler.addFilter(REDACTOR)
        self.logger = logger
        self.records: list[logging.LogRecord] = []
        self.handler.addFilter(self.keep)

    def keep(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return True

    @property
    def text(self) -> str:
        return self.written.getvalue()


@pytest.fixture
def log() -> Iterator[Log]:
    logger = logging.getLogger("tests.privacy.redactor")
    yield from _with_handler(logger)


def _with_handler(logger: logging.Logger) -> Iterator[Log]:
    log = Log(logger)
    logger.addHandler(log.handler)
    before, logger.propagate = (logger.propagate, logger.level), False
    logger.setLevel(logging.DEBUG)
    yield log
    logger.removeHandler(log.handler)
    logger.propagate = before[0]
    logger.setLevel(before[1])


def test_messages_and_arguments_are_redacted(log: Log) -> None:
    """Those in the text, in the arguments, and those that only both together make."""
    log.logger.info("mail jane@example.org")
    log.logger.info("mail %s and %d%%", "jane@example.org", 5)
    log.logger.info("%s@%s", "jane", "example.org")
    log.logger.info("card %d", int(CARD))
    log.logger.info("user %s", {"password": "hunter2", "n": 1})
    log.logger.info("%(who)s did", {"who": "jane@example.org"})
    log.logger.info({"email": "jane@example.org"})
    log.logger.info("password=%s", "hunter2")
    log.logger.info("100%")
    assert log.text.splitlines() == [
        "mail [email]",
        "mail [email] and 5%",
        "[email]",
        "card [card]",
        "user {'password': '[secret]', 'n': 1}",
        "[email] did",
        "{'email': '[email]'}",
        "password=[secret]",
        "100%",
    ]


def test_data_in_a_record_are_redacted_by_names_too(log: Log) -> None:
    """A mapping as message, as the only argument, and as one of several."""
    person = {"first_name": "Jane", "n": 1}
    log.logger.info(person)
    log.logger.info("got %s", person)
    log.logger.info("got %s and %d", [person], 2)
    log.logger.info("%(first_name)s is %(n)d", person)
    log.logger.info("%(a)s@%(b)s", {"a": "jane", "b": "example.org"})
    log.logger.handle(
        logging.makeLogRecord({"name": log.logger.name, "levelno": 20, "msg": "no arguments", "args": None})
    )
    shown = "{'first_name': '[name]', 'n': 1}"
    assert log.text.splitlines() == [
        shown,
        f"got {shown}",
        f"got [{shown}] and 2",
        "[name] is 1",
        "[email]",
        "no arguments",
    ]
    assert person == {"first_name": "Jane", "n": 1}


def test_an_object_is_redacted_as_it_is_written(log: Log) -> None:
    """Its own text may hold anything."""

    class User:
        def __str__(self) -> str:
            return "jane@example.org"

    log.logger.info("%s", User())
    assert log.text == "[email]\n"


def test_tracebacks_and_stacks_are_redacted(log: Log) -> None:
    """With causes; the exception itself goes no further."""
    try:
        try:
            raise KeyError("jane@example.org")
        except KeyError as error:
            raise ValueError(f"card {CARD}") from error
    except ValueError:
        log.logger.exception("crashed", stack_info=True)
    assert "KeyError: '[email]'" in log.text
    assert "ValueError: card [card]" in log.text
    assert "jane@" not in log.text
    assert CARD not in log.text
    assert "Stack (most recent call last)" in log.text
    assert log.records[0].exc_info is None
    log.logger.info("no exception", exc_info=True)
    assert log.text.endswith("no exception\nNoneType: None\n") or log.text.endswith("no exception\n")


def test_extras_are_redacted(log: Log) -> None:
    """By name and by pattern, at any depth; what cannot be read is not passed on."""
    extra = {"email": "jane", "facts": {"by": ["jane@example.org"]}, "ms": 12, "request": object()}
    log.logger.info("x", extra=extra)
    (record,) = log.records
    assert record.__dict__["email"] == "[email]"
    assert record.__dict__["facts"] == {"by": ["[email]"]}
    assert record.__dict__["ms"] == 12
    assert record.__dict__["request"] == "[unread]"
    assert extra["facts"] == {"by": ["jane@example.org"]}


def test_the_access_log_of_uvicorn_keeps_its_form() -> None:
    """Its formatter unpacks five arguments: they are there, redacted."""
    for log in _with_handler(logging.getLogger("uvicorn.access")):
        log.handler.setFormatter(
            AccessFormatter('%(client_addr)s - "%(request_line)s" %(status_code)s', use_colors=False)
        )
        path = "/users?email=jane%40example.org&token=abc&card=4111111111111111"
        log.logger.info('%s - "%s %s HTTP/%s" %d', "192.0.2.1:5000", "GET", path, "1.1", 200)
        log.logger.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5000", "GET", "/x", "1.1", 200)
        assert log.text.splitlines() == [
            '[ip]:5000 - "GET /users?email=[email]&token=[secret]&card=[card] HTTP/1.1" 200 OK',
            '127.0.0.1:5000 - "GET /x HTTP/1.1" 200 OK',
        ]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [("password=x1", ()), ("password=%s", ("x1",)), ("password=%(a)s", ({"a": "x1"},)), ("pass%s", ("word=x1",))],
)
def test_what_else_is_in_the_access_log_is_redacted(message: str, arguments: tuple[Any, ...]) -> None:
    """Other servers and people write there too, without the five arguments that keep their form."""
    for log in _with_handler(logging.getLogger("uvicorn.access")):
        log.logger.info(message, *arguments)
        assert log.text == "password=[secret]\n"


@pytest.mark.parametrize("name", [1, "jane@example.org"], ids=repr)
def test_odd_names_of_extras_are_no_error(log: Log, name: Any) -> None:
    """The module logging takes any key: one that is no text, and one that is a datum itself, which is masked."""
    log.logger.info("x", extra={name: CARD})
    assert log.text == "x\n"
    assert "jane@example.org" not in log.records[0].__dict__
    assert CARD not in log.records[0].__dict__.values()


def test_events_of_the_audit_are_redacted() -> None:
    """The line and the facts beside it."""
    for log in _with_handler(logging.getLogger("mlguard.audit")):
        record_event("model.promoted", model="iris", by="jane@example.org", version=3)
        assert log.text == "model.promoted model=iris by=[email] version=3\n"
        assert log.records[0].__dict__["facts"] == {"model": "iris", "by": "[email]", "version": 3}


def test_arguments_that_do_not_fit_are_not_written(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    """The module logging itself would write message and arguments to stderr."""
    log.logger.info("a %s %s", "jane@example.org")  # noqa: PLE1206  # the point
    log.logger.info("%d jane@example.org", "x")
    assert "jane@" not in log.text + capsys.readouterr().err
    assert log.text.count("its arguments do not fit") == 2


def test_a_record_that_cannot_be_redacted_is_not_written(log: Log) -> None:
    """And whoever logs gets no exception."""

    class Broken:
        def find(self, text: str) -> list[Any]:
            raise RuntimeError("jane@example.org")

    extra: dict[Any, Any] = {"email": "jane@example.org", 1: "jane"}
    log.handler.filters.insert(0, Redactor(search=PIISearch(finders=[Broken()])))
    log.logger.info("jane@example.org", extra=extra, stack_info=True)
    assert log.text == "[a record that could not be redacted]\n"
    assert "jane" not in repr(log.records[0].__dict__)


def test_it_is_a_filter_of_a_configuration() -> None:
    """As services configure logging."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"people": {"()": lambda: REDACTOR}},
            "handlers": {
                "out": {"class": "logging.StreamHandler", "filters": ["people"], "stream": "ext://sys.stdout"}
            },
            "loggers": {"tests.privacy.configured": {"handlers": ["out"], "propagate": False}},
        }
    )
    logger = logging.getLogger("tests.privacy.configured")
    assert REDACTOR in logger.handlers[0].filters
    logger.handlers.clear()


@given(st.text(), st.lists(st.text() | st.integers() | st.floats() | st.none(), max_size=4))
def test_no_record_is_an_error(message: str, arguments: list[Any]) -> None:
    """Whatever is logged passes, without an exception."""
    record = logging.LogRecord("a", logging.INFO, "p", 1, message, tuple(arguments), None)
    assert REDACTOR.filter(record)
    record.getMessage()


@given(st.text(st.characters(exclude_characters="%")), st.text())
def test_a_mail_address_in_a_record_is_never_written(before: str, after: str) -> None:
    """Wherever it stands in message and arguments."""
    mail = "zaphod@betelgeuse.example"
    record = logging.LogRecord("a", logging.INFO, "p", 1, f"{before} {mail} %s", (f"{after} {mail}",), None)
    REDACTOR.filter(record)
    assert "betelgeuse" not in record.getMessage()
    assert "betelgeuse" not in repr(record.args)


def test_errors_are_said_without_data() -> None:
    """With what caused them, as far as it is shown, and not for ever."""
    first = ValueError("jane@example.org")
    second = KeyError(CARD)
    second.__cause__ = first
    assert REDACTOR.error(second) == "KeyError: '[card]' <- ValueError: [email]"
    third, fourth = RuntimeError("third"), RuntimeError("fourth")
    third.__context__, fourth.__context__ = second, third
    assert REDACTOR.error(fourth).count("<-") == 3
    fourth.__suppress_context__ = True
    assert REDACTOR.error(fourth) == "RuntimeError: fourth"
    first.__context__ = second
    assert REDACTOR.error(second).count("<-") == 15


def test_texts_and_data_are_redacted_as_asked() -> None:
    """By the search and the mask that it was given."""
    redactor = Redactor(search=PIISearch(kinds={"card"}), mask=KeepLast())
    assert redactor.text(f"jane@example.org {CARD}") == "jane@example.org ********1111"
    assert redactor.data({"a": [CARD]}) == {"a": ["********1111"]}
    text = "nothing"
    assert redactor.text(text) is text


@pytest.mark.parametrize("settings", [{"search": "email"}, {"mask": "[x]"}, {"search": PIISearch}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    """A search that is none, a mask that cannot be called."""
    with pytest.raises(ConfigurationError, match="Redactor"):
        Redactor(**settings)


def test_the_redactor_shows_what_it_looks_for() -> None:
    """Its search is there to be read."""
    assert REDACTOR.search.kinds == PIISearch().kinds
    assert sys.modules["mlguard"].Redactor is Redactor
