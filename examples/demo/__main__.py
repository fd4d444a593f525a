"""``python -m examples.demo`` and ``python -m examples.demo --serve``."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import NoReturn

from examples.demo import report
from examples.demo.credentials import generated
from examples.demo.incident import play_incident
from examples.demo.process import StartError, running
from examples.demo.starts import try_starts
from examples.demo.verdict import play

SERVICE = "examples.demo.service:app"


def main(arguments: Sequence[str] | None = None, *, app: str = SERVICE) -> int:
    """Play the session, or serve.

    Returns:
        The exit code: 0 if every case went as it should, 1 if not.
    """
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="A guarded model service.")
    parser.add_argument("--serve", action="store_true", help="keep the service running, and print curl lines for it")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; default: any that is free")
    parser.add_argument("--report", type=Path, metavar="FILE", help="leave the page about the session there")
    options = parser.parse_args(arguments)
    try:
        return serve(app, options.port) if options.serve else demonstrate(app, options.port, options.report)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demonstrate(app: str, port: int, page: Path | None = None) -> int:
    """Play the session against the service, and print it."""
    outcomes = []
    print("Making keys, training, signing and encrypting the model, and starting the service ...\n", flush=True)
    with generated() as keys:
        environment = {**keys.environment, "MLGUARD_ENV": "production"}
        with running(app, environment, port=port) as service:
            start = time.monotonic()
            incident = play_incident(service, keys, report=page)
            session = chain(play(service, keys), incident, try_starts(app, environment, keys))
            for number, outcome in enumerate(session, start=1):
                report.print_outcome(number, outcome)
                outcomes.append(outcome)
        report.print_summary(outcomes, time.monotonic() - start)
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


def serve(app: str, port: int) -> int:
    """Keep the service running, and show its log, until Ctrl-C."""
    with (
        generated() as keys,
        running(app, keys.environment, port=port) as service,
        suppress(KeyboardInterrupt),
    ):
        report.print_curl_lines(service.url, keys)
        while service.process.poll() is None:
            print(service.log.take(), end="", flush=True)
            time.sleep(0.1)
        print(service.log.take(), end="", file=sys.stderr)
        return 1
    return 0


def _exit(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  # the signature of a signal handler
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _exit)  # so that the service is stopped then, too
    raise SystemExit(main())
