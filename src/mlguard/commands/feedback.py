"""``mlguard feedback``: look at labels that were kept back, and say what becomes of them.

It works on the file of a ``FeedbackQuarantine``, while the service runs.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mlguard.errors import ConfigurationError, UnavailableError
from mlguard.monitoring.feedback_quarantine import FeedbackQuarantine
from mlguard.monitoring.quarantined_rows import QuarantinedRow, State

YES = 0
NO = 1
_PAGE = 1_000


def add_to(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this command to the parser."""
    feedback = subcommands.add_parser("feedback", help="release and reject labels kept back", description=__doc__)
    actions = feedback.add_subparsers(metavar="ACTION", required=True)

    listing = _add(actions, "list", _list, "list rows, without their values")
    _add_which(listing, required=False)
    listing.add_argument("--released", action="store_true", help="those that were released and not fetched yet")
    listing.add_argument("--limit", type=_whole, default=100, help="how many at most (default: 100)")

    show = _add(actions, "show", _show, "show one row with its values, as JSON")
    show.add_argument("id", type=_whole, help="its number")

    release = _add(actions, "release", _release, "let rows into the training data")
    _add_which(release, required=True)

    reject = _add(actions, "reject", _reject, "remove rows")
    _add_which(reject, required=True)

    withdraw = _add(actions, "withdraw", _withdraw, "take back a release of rows that were not fetched yet")
    _add_which(withdraw, required=True)


def _add(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
    parser.add_argument("file", help="of the quarantine")
    parser.set_defaults(run=run)
    return parser


def _add_which(parser: argparse.ArgumentParser, *, required: bool) -> None:
    if required:
        parser.add_argument("ids", nargs="*", type=_whole, metavar="id", help="numbers of rows")
        parser.add_argument("--all", action="store_true", help="everything there is")
    parser.add_argument("--caller", metavar="ID", help="all rows of one caller: its key id, or subject of tokens")
    parser.add_argument("--method", help="how the caller was proved, as list shows it, such as api-key")
    parser.add_argument("--issuer", help="who vouches for the caller, as list shows it")
    parser.add_argument("--reason", help="all rows kept back for a reason, such as share")


# Actions -------------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    quarantine = open_quarantine(options.file)
    _ask(quarantine.purge)
    shown = 0
    for row in _rows(quarantine, options, state="released" if options.released else "held"):
        if shown == options.limit:
            sys.stdout.write("There are more: see --limit.\n")
            break
        shown += 1
        who = " ".join(_word(part) for part in (row.method, row.issuer, row.caller) if part)
        label = json.dumps(row.label)
        sys.stdout.write(f"{row.id}  {row.at:%Y-%m-%d %H:%M:%S}  {who}  label {label}  because of {row.reason}\n")
    if not shown:
        sys.stdout.write("Nothing waits here.\n")
    return YES


def _show(options: argparse.Namespace) -> int:
    quarantine = open_quarantine(options.file)
    row = _ask(lambda: quarantine.row(options.id))
    if row is None:
        sys.stderr.write("mlguard: there is no such row\n")
        return NO
    shown = {
        "id": row.id,
        "at": row.at.isoformat(),
        "state": row.state,
        "method": row.method,
        "issuer": row.issuer,
        "caller": row.caller,
        "reason": row.reason,
        "label": row.label,
        "features": [None if value != value else value for value in row.features.ravel().tolist()],  # noqa: PLR0124  # NaN
        "shape": [*row.features.shape],
    }
    sys.stdout.write(f"{json.dumps(shown)}\n")
    return YES


def _release(options: argparse.Namespace) -> int:
    quarantine = open_quarantine(options.file)
    return _decide(options, quarantine, quarantine.release, "released")


def _reject(options: argparse.Namespace) -> int:
    quarantine = open_quarantine(options.file)
    return _decide(options, quarantine, quarantine.reject, "rejected")


def _withdraw(options: argparse.Namespace) -> int:
    quarantine = open_quarantine(options.file)
    return _decide(options, quarantine, quarantine.withdraw, "withdrawn", state="released")


def _decide(
    options: argparse.Namespace,
    quarantine: FeedbackQuarantine,
    decide: Callable[[Iterable[int]], int],
    done: str,
    *,
    state: State = "held",
) -> int:
    filters = (options.caller, options.method, options.issuer, options.reason)
    chosen = options.all or any(one is not None for one in filters)
    if chosen == bool(options.ids):
        raise ConfigurationError(
            "say which rows: their numbers, or some of --caller, --method, --issuer and --reason, or --all"
        )
    ids = options.ids or _chosen(quarantine, options, state)
    count = _ask(lambda: decide(ids))
    sys.stdout.write(f"{count} rows {done}.\n")
    return YES if count else NO


def _chosen(quarantine: FeedbackQuarantine, options: argparse.Namespace, state: State) -> list[int]:
    """The numbers of the rows that are meant.

    Raises:
        ConfigurationError: One caller is named, and there are several: the key alice and the token alice may be two.
    """
    rows = [(row.id, (row.method, row.issuer)) for row in _rows(quarantine, options, state=state)]
    kinds = {kind for _, kind in rows}
    if options.caller is not None and len(kinds) > 1:
        told = ", ".join(sorted(" ".join(map(_word, filter(None, kind))) for kind in kinds))
        raise ConfigurationError(f"several callers have this id ({told}): say which with --method or --issuer")
    return [id_ for id_, _ in rows]


def _rows(quarantine: FeedbackQuarantine, options: argparse.Namespace, *, state: State) -> Iterable[QuarantinedRow]:
    wanted = {"method": options.method, "issuer": options.issuer, "reason": options.reason}
    asked = {name: value for name, value in wanted.items() if value is not None}
    after = 0
    while page := _ask(lambda: quarantine.rows(caller=options.caller, state=state, after=after, limit=_PAGE)):  # noqa: B023  # used at once
        yield from (row for row in page if all(getattr(row, name) == value for name, value in asked.items()))
        after = page[-1].id


def open_quarantine(path: str) -> FeedbackQuarantine:
    """A quarantine that is there.

    Raises:
        ConfigurationError: It is not, or cannot be used.
    """
    if not Path(path).is_file():  # a new one would hold nothing
        raise ConfigurationError(f"{path}: there is no such file of a quarantine")
    return FeedbackQuarantine(path)


def _ask(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except UnavailableError as refusal:
        reason = refusal.reason
    raise ConfigurationError(reason)


def _word(name: str) -> str:
    """A name that somebody else has chosen, for a terminal."""
    return json.dumps(name) if not name.isascii() or not name.isprintable() or " " in name else name


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 18 and int(text) >= 1):
        raise argparse.ArgumentTypeError("a whole number of at least 1")
    return int(text)
