"""``mlguard``, or ``python -m mlguard``.

Exit codes of every command: 0, done or yes. 1, no: there is no such key, it is not live, or a model is refused. 2, used
wrongly. 3, a file or the environment cannot be used; also, without a word, where the output is read no further.
"""

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any

from mlguard import commands
from mlguard.commands._auditing import audited
from mlguard.errors import ConfigurationError, ModelRefusedError

NO = 1
UNUSABLE = 3


class _Parser(argparse.ArgumentParser):
    """Refuses what is too much, with the usage of the action that it was given to. Not quoted: one may be a key."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse. Of all parsers, that of the action is asked first."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            hint = self.get_default("instead")
            self.error(f"there are more arguments than the command takes{f'; {hint}' if hint else ''}")
        return options, unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Of the command line. None: those of this process.

    Returns:
        The exit code.
    """
    parser = _Parser(
        prog="mlguard",
        description="Security guards for FastAPI services that serve machine-learning models.",
        epilog="Exit codes: 0 done or yes, 1 no, 2 used wrongly, 3 a file or the environment cannot be used.",
    )
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for module in sorted(module.name for module in pkgutil.iter_modules(commands.__path__)):
        if not module.startswith("_"):
            importlib.import_module(f"{commands.__name__}.{module}").add_to(subcommands)
    options = parser.parse_args(arguments)
    try:
        with audited(options):
            code: int = options.run(options)
        print(end="", flush=True)  # noqa: T201  # while it can be told that it fails; also without any output
    except BrokenPipeError:  # whoever reads it has seen enough, as head has
        _let_go_of_output()
        return UNUSABLE
    except ModelRefusedError as error:
        problem, code = str(error), NO
    except ConfigurationError as error:
        problem, code = str(error), UNUSABLE
    except OSError as error:
        problem, code = f"{error.filename or 'output'}: {error.strerror or type(error).__name__}", UNUSABLE
    else:
        return code
    sys.stderr.write(f"mlguard: {problem}\n")
    return code


def _let_go_of_output() -> None:
    """Have what is left of the output go nowhere: Python would complain of it at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
