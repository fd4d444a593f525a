"""The end of the session: somebody takes the model apart, is noticed, is locked out, and it all stands in the log."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np

from examples.demo.calls import ONE, ZERO, Caller, UnexpectedError
from examples.demo.command_line import Ran, run
from examples.demo.credentials import Credentials
from examples.demo.process import Log, Service
from examples.demo.verdict import Outcome

T = TypeVar("T")

_QUERIES = 60  # of the attack, at most; it is noticed within 25
_NOTICED_SECONDS = 3
_LOCKED_SECONDS = 3  # a second for the block to arrive, and time for a machine that has more to do
_PACE = 0.02  # seconds between two queries, as over a network
_STEP = 0.05  # of a brightness: nobody sees it


@dataclass
class _Told:
    """What a part of the incident shows."""

    answer: httpx.Response | None = None
    lines: list[str] = field(default_factory=list)


def play_incident(service: Service, keys: Credentials, *, report: Path | None = None) -> Iterator[Outcome]:
    """Play it against a service that is running.

    Args:
        service: The service.
        keys: The secrets of everybody, and where the log is.
        report: Where to leave the page about it all; None for a place that is gone afterwards.
    """
    with httpx.Client(base_url=service.url, timeout=10, trust_env=False) as http:
        incident = _Incident(Caller(http, keys), service.log, keys, report or keys.folder / "report.html")
        for title, play in incident.parts():
            outcome = Outcome(title, asked=False)
            try:
                told = play()
                outcome.answer, outcome.log = told.answer, "\n".join(told.lines)
                outcome.asked = told.answer is not None
                if any(secret in outcome.log for secret in keys.secrets):
                    raise UnexpectedError("it tells a secret")
            except UnexpectedError as unexpected:
                outcome.wrong = str(unexpected)
            except httpx.HTTPError as error:
                outcome.wrong = f"there was no answer: {type(error).__name__}"
            yield outcome


class _Incident:
    """What mallory does, and what the operator does about it."""

    def __init__(self, caller: Caller, log: Log, keys: Credentials, report: Path) -> None:
        self._caller = caller
        self._log = log
        self._keys = keys
        self._report = report

    def parts(self) -> list[tuple[str, Callable[[], _Told]]]:
        """What happens, in order."""
        return [
            ("an attack on the model is noticed, and somebody is told", self._walk),
            ("the attacker is locked out on the command line", self._lock_out),
            ("the audit log has it all, and holds", self._verify),
            ("a report of the log, as one page", self._write_report),
            ("one record of the log changed by hand", self._forge),
        ]

    def _walk(self) -> _Told:
        """Look for the edge between two digits, and walk along it by steps that nobody sees."""
        draws = np.random.default_rng(7)
        inside, outside = np.array(ZERO, dtype=float), np.array(ONE, dtype=float)
        for query in range(_QUERIES):
            middle = (inside + outside) / 2
            jitter = draws.uniform(-_STEP, _STEP, middle.size) if query > 10 else 0.0
            answer = self._caller.predict(np.clip(middle + jitter, 0, 16).round(4).tolist(), key=self._keys.mallory)
            if answer.status_code != 200:
                raise UnexpectedError(f"expected a prediction, got {answer.status_code}")
            time.sleep(_PACE)
            if self._alert():
                break
            if query <= 10:  # bisection
                is_inside = "'0'" in str(answer.json()["probabilities"][0][:1])
                inside, outside = (middle, outside) if is_inside else (inside, middle)
        alert = _until(self._alert, _NOTICED_SECONDS)
        if alert is None:
            raise UnexpectedError(f"nobody was told of mallory within {_QUERIES} queries")
        return _Told(answer, [alert])

    def _alert(self) -> str | None:
        lines = self._log.peek().splitlines()
        return next((line for line in lines if "ALERT query.suspected" in line and "mallory" in line), None)

    def _lock_out(self) -> _Told:
        self._mlguard("lockdown", "block", "principal", "mallory", "--for", "1h", "--reason", "walks along an edge")
        answer = _until(self._refused, _LOCKED_SECONDS)
        if answer is None:
            raise UnexpectedError("mallory was still answered")
        if self._caller.predict(ZERO).status_code == 403:
            raise UnexpectedError("alice was locked out too")
        return _Told(answer, self._mlguard("lockdown", "list").printed.splitlines())

    def _refused(self) -> httpx.Response | None:
        answer = self._caller.predict(ZERO, key=self._keys.mallory)
        return answer if answer.status_code == 403 else None

    def _verify(self) -> _Told:
        for event in (["--principal", "mallory", "--status", "403"], ["--event", "lockdown.set"]):
            if not _until(lambda event=event: self._found(*event), _NOTICED_SECONDS):  # type: ignore[misc]
                raise UnexpectedError(f"the audit log has no record for {' '.join(event)}")
        asked = self._found("--principal", "mallory", "--status", "200")
        verified = self._mlguard("audit-log", "verify")
        return _Told(lines=[f"{len(asked)} requests of mallory were answered", verified.printed.splitlines()[-1]])

    def _found(self, *which: str) -> list[str]:
        return run("audit-log", "search", *which, environment=self._keys.environment).printed.splitlines()

    def _write_report(self) -> _Told:
        self._mlguard("report", "--output", str(self._report), "--title", "The demo's session")
        page = self._report.read_text("utf-8")
        if "mallory" not in page or any(secret in page for secret in self._keys.secrets):
            raise UnexpectedError("the page does not name mallory, or tells a secret")
        return _Told(lines=[f"{self._report}: {len(page) / 1024:.0f} KiB of HTML, without a script"])

    def _forge(self) -> _Told:
        """Make a request of mallory's one of somebody else, in a copy."""
        copy = self._keys.folder / "forged"
        shutil.copytree(self._keys.audit, copy)
        for file in copy.iterdir():
            lines = file.read_bytes().splitlines(keepends=True)
            forged = [line.replace(b'"mallory"', b'"alice"') if _is_of_mallory(line) else line for line in lines]
            if forged != lines:
                file.write_bytes(b"".join(forged))
                break
        else:
            raise UnexpectedError("the log has no request of mallory")
        verified = run("audit-log", "verify", "--directory", str(copy), environment=self._keys.environment)
        if verified.code == 0:
            raise UnexpectedError("the log holds all the same")
        return _Told(lines=[line.strip() for line in verified.printed.splitlines() if "PROBLEM" in line][:1])

    def _mlguard(self, *arguments: str) -> Ran:
        ran = run(*arguments, environment=self._keys.environment)
        if ran.code:
            said = (ran.said or ran.printed).splitlines()[:1]
            raise UnexpectedError(f"mlguard {arguments[0]} {arguments[1]} failed: {' '.join(said)}")
        return ran


def _is_of_mallory(line: bytes) -> bool:
    record = json.loads(line)
    return bool(record["event"] == "request" and (record["principal"] or {}).get("id") == "mallory")


def _until(look: Callable[[], T | None], seconds: float) -> T | None:
    """What is found once it is there, or None."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found or None
