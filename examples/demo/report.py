"""Prints each case: what the caller sees, and what the operator's log holds."""

import json
import textwrap
from contextlib import suppress

import httpx

from examples.demo.calls import BLACK, ZERO
from examples.demo.credentials import Credentials
from examples.demo.verdict import Outcome

_WIDTH = 100
_INDENT = " " * 12
_SHOWN_HEADERS = ("WWW-Authenticate", "Retry-After", "RateLimit")


def print_outcome(number: int, outcome: Outcome) -> None:
    """One case."""
    verdict = "WRONG" if outcome.wrong else "as it should be"
    print(f"{number:2}  {outcome.title:{_WIDTH - 5 - len(verdict)}} {verdict}")
    if outcome.asked:
        _print_part("caller", "no answer" if outcome.answer is None else _seen(outcome.answer))
    _print_part("log", _shortened(outcome.log) or "nothing")
    if outcome.wrong:
        _print_part("wrong", outcome.wrong)
    print()


def print_summary(outcomes: list[Outcome], seconds: float) -> None:
    """How many went as they should, and which did not."""
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    if not wrong:
        print(
            f"All {len(outcomes)} cases went as they should, in {seconds:.1f} s. No answer told anything of the inside,"
        )
        print("no secret is in the log, and the crash is there once, with its traceback.")
        return
    print(f"{len(wrong)} of {len(outcomes)} cases went otherwise than they should:")
    for outcome in wrong:
        print(f"  {outcome.title}: {outcome.wrong}")


def print_curl_lines(url: str, keys: Credentials) -> None:
    """Calls to paste into another terminal."""
    print(f"The service listens on {url} until Ctrl-C. Its log follows below. Paste into another terminal:\n")
    image = json.dumps({"features": ZERO}, separators=(",", ":"))
    for title, body, key in (
        ("a good prediction", image, keys.alice),
        ("no key", image, ""),
        ("NaN", image.replace("15", "NaN", 1), keys.alice),
        ("a key without the scope", image, keys.bob),
        ("a crash inside the model", json.dumps({"features": BLACK}, separators=(",", ":")), keys.alice),
    ):
        credential = f" -H 'X-API-Key: {key}'" if key else ""
        print(f"# {title}")
        print(f"curl -i {url}/predict{credential} -H 'Content-Type: application/json' -d '{body}'\n")


def _print_part(label: str, text: str) -> None:
    for line in text.splitlines():
        for piece in textwrap.wrap(line, _WIDTH - len(_INDENT), break_on_hyphens=False):
            print(f"    {label:8}{piece}")
            label = ""


def _seen(answer: httpx.Response) -> str:
    """Status, the headers that tell something, and the body."""
    headers = [f"{name}: {answer.headers[name]}" for name in _SHOWN_HEADERS if name in answer.headers]
    return "  ".join([str(answer.status_code), *headers]) + "\n" + _spaced(answer.text)


def _spaced(text: str) -> str:
    """JSON with spaces, at which the lines can be broken."""
    with suppress(ValueError):
        return json.dumps(json.loads(text))
    return text


def _shortened(log: str) -> str:
    """A traceback without its middle."""
    lines = log.splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
    if not frames or "Traceback" not in log:
        return log
    message = next(line for line in lines[frames[-1] :] if not line.startswith("  "))
    return "\n".join([*lines[: frames[0]], f"... {len(frames)} lines ...", message])
