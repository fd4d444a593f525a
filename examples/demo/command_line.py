"""Runs ``mlguard`` as an operator does."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """What came of a command.

    Attributes:
        code: Its exit code.
        printed: What it wrote to standard output.
        said: What it wrote to standard error.
    """

    code: int
    printed: str
    said: str


def run(*arguments: str, environment: Mapping[str, str]) -> Ran:
    """Run ``mlguard`` with these arguments, and with this on top of this process's own environment."""
    command = [sys.executable, "-m", "mlguard", *arguments]
    with subprocess.Popen(  # noqa: S603  # our own command
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            printed, said = process.communicate()
        except BaseException:  # an interrupt must not leave it behind
            process.kill()
            process.wait()
            raise
    return Ran(process.returncode, printed.strip(), said.strip())


def output_of(*arguments: str, environment: Mapping[str, str]) -> str:
    """What a command prints that has to work.

    Raises:
        RuntimeError: It did not.
    """
    ran = run(*arguments, environment=environment)
    if ran.code:
        raise RuntimeError(f"mlguard {arguments[0]} {arguments[1]}: {ran.said}")
    return ran.printed
