"""``mlguard model inspect``: what a model file is, and every global that it would import, without running any of it."""

import argparse
import sys

from mlguard.artifacts import allowed_globals
from mlguard.artifacts._symbols import spell
from mlguard.artifacts.allowed_globals import NUMPY_ARRAYS, SKLEARN_ESTIMATORS
from mlguard.artifacts.loading import MAX_INSTRUCTIONS, MAX_SIZE, ModelReport, inspect_model
from mlguard.artifacts.model_formats import FORMATS

_YES, _NO = 0, 1
_SETS = ("NUMPY_ARRAYS", "SKLEARN_FORESTS", "SKLEARN_LINEAR", "SKLEARN_PREPROCESSING")


def add_to(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this action to ``mlguard model``."""
    text = "say what a model file is and what it would import, without running any of it"
    inspect = actions.add_parser(
        "inspect",
        help=text,
        description=f"{text.capitalize()}.",
        epilog="Exit codes: 0 all that it names is in a ready set, 1 not all is, or it has a problem or is refused, "
        "2 used wrongly, 3 a file cannot be used.",
    )
    inspect.add_argument("path", help="the file")
    add_form(inspect)
    inspect.set_defaults(run=_inspect)


def add_form(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a model file may be."""
    parser.add_argument("--format", choices=FORMATS, help="what it is, if its suffix does not say so")
    parser.add_argument(
        "--max-size", type=int, default=MAX_SIZE, metavar="BYTES", help="of the file, and out of it (default: 1 GiB)"
    )
    parser.add_argument(
        "--max-instructions", type=int, default=MAX_INSTRUCTIONS, metavar="N", help="of a pickle (default: %(default)s)"
    )


def inspected(path: str, options: argparse.Namespace) -> ModelReport:
    """What is in a file, which must be what these options say."""
    return inspect_model(
        path, format=options.format, max_size=options.max_size, max_instructions=options.max_instructions
    )


def _inspect(options: argparse.Namespace) -> int:
    report = inspected(options.path, options)
    compression = f", compressed by {report.compression}" if report.compression else ""
    sys.stdout.write(f"format: {report.format}{compression}\nsha256: {report.sha256}\n")
    _write_globals(report)
    for problem in report.problems:
        sys.stdout.write(f"problem: {problem}\n")
    return _NO if report.problems or not SKLEARN_ESTIMATORS.issuperset(report.globals) else _YES


def _write_globals(report: ModelReport) -> None:
    names = {spell(name): name for name in report.globals}
    width = max(map(len, names), default=0)
    sys.stdout.write(f"globals: {len(names) or 'none'}\n")
    for text, name in names.items():
        sets = [one for one in _SETS if name in getattr(allowed_globals, one)]
        if name in NUMPY_ARRAYS:
            sets = sets[:1]  # which every other set has
        sys.stdout.write(f"  {text.ljust(width)}  {', '.join(sets) or 'in no ready set'}\n")
