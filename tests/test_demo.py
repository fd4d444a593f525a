"""The demo: it ends well on the guarded service, and not on one that is not guarded."""

import logging
import re
import shlex
import signal
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest
from examples.demo.__main__ import main
from examples.demo.model import train
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from tests.servers import can_connect, program, wait_until

CASES = [
    "a good prediction",
    "a batch of three",
    "no key",
    "a wrong key",
    "a key without the scope",
    "a key revoked on the command line",
    "a login, and the token it gives",
    "a wrong password",
    "a refresh token, used twice",
    "a token of that session",
    "NaN",
    "Infinity",
    "a value out of range",
    "a ragged batch",
    "an oversized body",
    "a signed request, replayed",
    "a signed request, tampered",
    "a key with a limit of its own",
    "the 61st request of a minute",
    "a crash inside the model",
]
INCIDENT = [
    "an attack on the model is noticed, and somebody is told",
    "the attacker is locked out on the command line",
    "the audit log has it all, and holds",
    "a report of the log, as one page",
    "one record of the log changed by hand",
]
STARTS = [
    "a start with another key for the model",
    "a start with one byte of the model changed",
]


def verdicts(output: str) -> list[tuple[str, str]]:
    """The title and the verdict of each case that was printed."""
    return re.findall(r"^ ?\d+  (.+?) +(as it should be|WRONG)$", output, re.MULTILINE)


def test_demo_ends_well() -> None:
    """Every case goes as it should, within 100 columns, and no secret is printed."""
    with program("-m", "examples.demo") as demo:
        assert demo.process.wait(240) == 0, demo.output
        assert verdicts(demo.output) == [(title, "as it should be") for title in CASES + INCIDENT + STARTS]
        assert f"All {len(CASES + INCIDENT + STARTS)} cases went as they should" in demo.output
        assert max(map(len, demo.output.splitlines())) <= 100
        assert "mlg_" not in demo.output
        wait_until(lambda: not demo.has_children)  # what it had started may take a moment to be gone


# Services that must not pass ----------------------------------------------------------------------------------------


async def unguarded(scope: Scope, receive: Receive, send: Send) -> None:
    """The same service as many are written: it predicts, and guards nothing."""
    await make_unguarded()(scope, receive, send)


@cache
def make_unguarded() -> FastAPI:
    app = FastAPI()
    model = train()

    @app.post("/predict")
    @app.post("/partner/predict")
    def predict(features: dict[str, Any]) -> dict[str, Any]:
        rows = np.atleast_2d(np.array(features["features"], dtype=np.float64))
        return {"probabilities": model.predict_proba(rows).tolist()}

    return app


async def telling(scope: Scope, receive: Receive, send: Send) -> None:
    """The guarded service, in front of which something names a feature in each answer."""
    from examples.demo.service import app

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-debug", b"pixel_0_0")]
        await send(message)

    await app(scope, receive, tell)


async def talkative(scope: Scope, receive: Receive, send: Send) -> None:
    """The guarded service, in front of which something logs the headers."""
    from examples.demo.service import app

    if scope["type"] == "http":
        logging.getLogger("uvicorn.error").info("headers: %s", scope["headers"])
    await app(scope, receive, send)


def wrong_cases(output: str) -> dict[str, str]:
    """What the demo says at its end about the cases that went wrong."""
    _, summary = output.split("cases went otherwise than they should:\n")
    return dict(re.findall(r"^  (.+?): (.+)$", summary, re.MULTILINE))


def test_demo_fails_on_a_service_without_guards(capsys: pytest.CaptureFixture[str]) -> None:
    """Each case is found wrong on an unguarded service, and the exit code says so."""
    assert main([], app="tests.test_demo:unguarded") == 1
    output = capsys.readouterr().out
    assert verdicts(output) == [(title, "WRONG") for title in CASES + INCIDENT + STARTS]
    wrong = wrong_cases(output)
    assert list(wrong) == CASES + INCIDENT + STARTS
    assert {wrong[title] for title in STARTS} == {"the service has started all the same"}
    assert wrong["no key"] == "expected status 401, got 200"
    assert wrong["the 61st request of a minute"] == "of 61 requests 61 were accepted, not 60"


def test_demo_fails_when_an_answer_tells_of_the_inside(capsys: pytest.CaptureFixture[str]) -> None:
    """The right statuses are not enough: a feature's name in a header is a leak."""
    assert main([], app="tests.test_demo:telling") == 1
    wrong = wrong_cases(capsys.readouterr().out)
    assert wrong == dict.fromkeys(CASES, "the answer tells what is inside: 'pixel_0_0'")


def test_demo_fails_when_the_log_holds_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """A key in the log is a leak, and is not repeated in the report."""
    assert main([], app="tests.test_demo:talkative") == 1
    output = capsys.readouterr().out
    wrong = wrong_cases(output)
    assert wrong["a good prediction"] == "the log holds what it must not: a secret"
    assert "no key" not in wrong
    assert "mlg_" not in output[output.index("cases went otherwise") :]


def test_demo_says_why_a_service_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    """A service that cannot be imported ends the demo with its own words."""
    assert main([], app="tests.test_demo:nothing") == 1
    assert 'Attribute "nothing" not found' in capsys.readouterr().err


# Serving --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_curl_lines_that_work(number: int) -> None:
    """Each printed line does what its title says, and an interrupt or a termination stops everything."""
    with program("-m", "examples.demo", "--serve") as demo:
        demo.wait_for("startup complete")  # the log comes after the lines
        lines = re.findall(r"^# (.+)\ncurl (.+)$", demo.output, re.MULTILINE)
        assert {title: call(shlex.split(line)) for title, line in lines} == {
            "a good prediction": 200,
            "no key": 401,
            "NaN": 422,
            "a key without the scope": 403,
            "a crash inside the model": 500,
        }
        demo.wait_for("ValueError: Input X contains NaN")
        assert demo.stop(number) == (0 if number == signal.SIGINT else 128 + number)
        wait_until(lambda: not demo.has_children)  # what it had started may take a moment to be gone
        assert not can_connect(url_of(shlex.split(lines[0][1])))


def test_interrupt_ends_the_demo() -> None:
    """An interrupt while the service starts ends the demo at once, without a traceback."""
    with program("-m", "examples.demo") as demo:
        demo.wait_for("encrypting the model")
        assert demo.stop(signal.SIGINT) == 130
        wait_until(lambda: not demo.has_children)  # what it had started may take a moment to be gone
        assert "Traceback" not in demo.output


def url_of(words: list[str]) -> str:
    return next(word for word in words if word.startswith("http://"))


def call(words: list[str]) -> int:
    """The status that a curl line gets."""
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    body = words[words.index("-d") + 1]
    return httpx.post(url_of(words), headers=headers, content=body, trust_env=False).status_code
