"""Secrets from environment variables, or from the files that they name."""

import os
import re

from pydantic import SecretStr

from mlguard.secrets._answers import Missing, Unusable
from mlguard.secrets._files import read_secret_file
from mlguard.secrets._reading import Reading

_VARIABLES = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)


class EnvironmentSecrets:
    """Secrets from the environment: ``TOKEN_SECRET``, or the file that ``TOKEN_SECRET_FILE`` names.

    Every process of the same user can read a process' environment, child processes inherit it, and crash reports hold
    it. A file or a secret store is safer.
    """

    def __init__(self) -> None:
        self._reading = Reading("env:", names=_VARIABLES)

    def read(self, name: str) -> SecretStr:
        """The value of a variable, or the content of the file that the variable ``<name>_FILE`` names.

        Raises:
            SecretUnavailableError: Neither is set, both are set, it is empty or no text, or the file cannot be read,
                is larger than 64 KiB, no regular file, or every user of the machine may write to it.
        """
        return self._reading.read(name, _fetch)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _fetch(name: str) -> object:
    value, path = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if value is not None and path is not None:
        raise Unusable(f"{name} and {name}_FILE are both set; keep one of them")
    if path is not None:
        return read_secret_file(path)
    if value is None:
        raise Missing(f"neither {name} nor {name}_FILE is set")
    return value
