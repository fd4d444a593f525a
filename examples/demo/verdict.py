"""Plays a case, and judges what came of it: the answer, the log, and that nothing inside leaked."""

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from examples.demo.calls import Caller, UnexpectedError
from examples.demo.credentials import Credentials
from examples.demo.model import PIXELS
from examples.demo.process import Log, Service
from examples.demo.session import Case, Refusal, cases

_LOG_SECONDS = 3
_TRACEBACK = "Traceback (most recent call last)"
_RECORD = re.compile(r"^(?=(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):)", re.MULTILINE)

# What no answer may hold: names of people and of features, what exceptions say, what it is made of, where it lies.
_INSIDE = (
    "alice", "bob", "carol", "dora", "erin", *PIXELS, "NaN", "Traceback", "ValueError", "sklearn", "scikit", "numpy",
    "pydantic", "uvicorn", "python", ".py", str(Path.cwd()), sys.prefix,
)  # fmt: skip


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        title: Of the case.
        answer: What the caller saw, if anything.
        log: What the operator's log holds about it.
        wrong: What went otherwise than it should; empty if nothing did.
        asked: Whether somebody called.
    """

    title: str
    answer: httpx.Response | None = None
    log: str = ""
    wrong: str = ""
    asked: bool = True


def play(service: Service, keys: Credentials) -> Iterator[Outcome]:
    """Play the session against a service that is running."""
    with httpx.Client(base_url=service.url, timeout=10, trust_env=False) as http:  # no proxy on the way to ourselves
        for case in cases(Caller(http, keys)):
            yield _judge(case, service.log, keys)


def _judge(case: Case, log: Log, keys: Credentials) -> Outcome:
    outcome = Outcome(case.title)
    try:
        outcome.answer = case.play()
        _expect_answer(case, outcome.answer, keys)
        _expect_log(case, outcome.answer, log, keys)
    except UnexpectedError as unexpected:
        outcome.wrong = str(unexpected)
    except httpx.HTTPError as error:
        outcome.wrong = f"there was no answer: {type(error).__name__}"
    outcome.log = _story(log.take(), outcome.answer)
    return outcome


def _expect_answer(case: Case, answer: httpx.Response, keys: Credentials) -> None:
    status = case.refusal.status if case.refusal else 200
    if answer.status_code != status:
        raise UnexpectedError(f"expected status {status}, got {answer.status_code}")
    text = "\n".join([*(f"{name}: {value}" for name, value in answer.headers.items()), answer.text])
    for word in (*_INSIDE, *keys.secrets, *case.private):
        if word in text:
            raise UnexpectedError(f"the answer tells what is inside: {_unless_secret(word, keys)}")
    if "Server" in answer.headers:
        raise UnexpectedError("the answer names the server")
    if not _request_id(answer):
        raise UnexpectedError("the answer carries no request id")
    if case.refusal:
        _expect_problem(case.refusal, answer)


def _expect_problem(refusal: Refusal, answer: httpx.Response) -> None:
    if answer.headers["Content-Type"] != refusal.media_type:
        raise UnexpectedError(f"the refusal is not {refusal.media_type}")
    expected = {
        "type": f"urn:mlguard:problem:{refusal.rule}",
        "status": refusal.status,
        "request_id": _request_id(answer),
        **refusal.members,
    }
    problem = answer.json()
    for member, value in expected.items():
        if problem.get(member) != value:
            raise UnexpectedError(f"expected {member} {value!r} in the problem, got {problem.get(member)!r}")
    if refusal.status == 401 and "WWW-Authenticate" not in answer.headers:
        raise UnexpectedError("the 401 does not say how to authenticate")


def _expect_log(case: Case, answer: httpx.Response, log: Log, keys: Credentials) -> None:
    """Wait until the log says what it should: it may be written after the answer has left."""
    deadline = time.monotonic() + _LOG_SECONDS
    while wrong := _wrong_in_log(case, log.peek(), _request_id(answer)):
        if time.monotonic() > deadline:
            raise UnexpectedError(wrong)
        time.sleep(0.02)
    text = log.peek()
    for word in (*keys.secrets, *case.private):
        if word in text:
            raise UnexpectedError(f"the log holds what it must not: {_unless_secret(word, keys)}")


def _wrong_in_log(case: Case, text: str, request_id: str) -> str:
    records = [record for record in _RECORD.split(text) if f"request_id={request_id}" in record]
    if len(records) != (1 if case.refusal else 0):
        return f"the log has {len(records)} records with the request id of the answer"
    if case.refusal and case.refusal.log not in records[0]:
        return f"the log does not say {case.refusal.log!r}"
    if text.count(_TRACEBACK) != (1 if case.refusal and case.refusal.status == 500 else 0):
        return f"the log has {text.count(_TRACEBACK)} tracebacks"
    return ""


def _story(text: str, answer: httpx.Response | None) -> str:
    """The part of the log to show: the record with the answer's request id, or else the last one."""
    records = [record.strip() for record in _RECORD.split(text) if record.strip()]
    request_id = _request_id(answer) if answer is not None else ""
    about = [record for record in records if request_id and f"request_id={request_id}" in record]
    return "\n".join(about or records[-1:])


def _request_id(answer: httpx.Response) -> str:
    return str(answer.headers.get("X-Request-ID", ""))


def _unless_secret(word: str, keys: Credentials) -> str:
    return "a secret" if word in keys.secrets else repr(word)
