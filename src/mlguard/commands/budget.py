"""``mlguard budget``: see what callers have spent, give them more, and begin their period anew.

It works on the store that ``MLGUARD_STORE_URL`` names, the same as the service's, while the service runs. Which budgets
there are, the services have said there. Callers are kept as digests, so they cannot be listed: name one.
"""

import argparse
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mlguard.commands._shared_store import ask, shared_store
from mlguard.errors import ConfigurationError
from mlguard.store import Store
from mlguard.traffic._by import MAX_UNITS
from mlguard.traffic.addresses import caller_at, parse_address
from mlguard.traffic.ledger import EVERYBODY, BudgetStatus, Ledger, ledger_named, registered

T = TypeVar("T")

YES = 0
_NOTHING = "nothing spent or granted in this period; is it the right caller?"
_METHODS = ("api-key", "jwt", "signature", "name")


def add_to(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this command to the parser."""
    budget = subcommands.add_parser("budget", help="see, grant and reset what callers may spend", description=__doc__)
    actions = budget.add_subparsers(metavar="ACTION", required=True)

    show = _add(actions, "show", _show, "show the budgets, or what is left of one")
    show.add_argument("budget", nargs="?", help="its name (default: all of them)")
    _add_caller(show)

    grant = _add(actions, "grant", _grant, "let a caller spend more in this period")
    grant.add_argument("budget", help="its name")
    grant.add_argument("units", type=_units, help="how many more")
    _add_caller(grant)

    reset = _add(actions, "reset", _reset, "begin this period anew for a caller")
    reset.add_argument("budget", help="its name")
    _add_caller(reset)


def _add(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
    parser.set_defaults(run=run)
    return parser


def _add_caller(parser: argparse.ArgumentParser) -> None:
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--caller", metavar="ID", help="key id, subject of tokens, or what by= returns")
    whose.add_argument("--address", type=_address, help="an address that is counted as such, where there is no by=")
    whose.add_argument("--everybody", action="store_true", help="the total over all callers")
    text = "how the caller proves who it is; name: what a function in by= returns (default: api-key)"
    parser.add_argument("--method", choices=_METHODS, default="api-key", help=text)
    parser.add_argument("--issuer", default="", help="of the caller's tokens (iss), for jwt")


# Actions -------------------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    store = shared_store()
    budgets = ask(registered(store))
    if options.budget is None:
        for name, ledgers in budgets.items():
            sys.stdout.write(f"{name}: {', '.join(f'{ledger.quota} for {what}' for what, ledger in ledgers.items())}\n")
        if not budgets:
            sys.stdout.write("No service has used a budget in this store.\n")
        return YES
    ledger = ledger_named(budgets, options.budget, _what(options))
    status = ask(ledger.status(store, _identity(options), time.time()))
    return _print(ledger, options, status, note="" if status.used else _NOTHING)


def _grant(options: argparse.Namespace) -> int:
    return _change(options, lambda ledger, *account: ledger.grant(*account, units=options.units, now=time.time()))


def _reset(options: argparse.Namespace) -> int:
    return _change(options, lambda ledger, *account: ledger.reset(*account, now=time.time()))


def _change(
    options: argparse.Namespace, change: Callable[[Ledger, Store, tuple[str, ...]], Awaitable[BudgetStatus]]
) -> int:
    store, ledger = _chosen(options)
    identity = _identity(options)
    before = ask(ledger.status(store, identity, time.time()))
    after = ask(change(ledger, store, identity))
    return _print(ledger, options, after, note=f"before: {f'{before.used} spent' if before.used else _NOTHING}")


def _chosen(options: argparse.Namespace) -> tuple[Store, Ledger]:
    store = shared_store()
    return store, ledger_named(ask(registered(store)), options.budget, _what(options))


def _what(options: argparse.Namespace) -> str:
    if options.caller is None and options.address is None and not options.everybody:
        raise ConfigurationError("say whose budget: --caller ID, --address ADDRESS, or --everybody for the total")
    return "total" if options.everybody else "caller"


def _identity(options: argparse.Namespace) -> tuple[str, ...]:
    if options.everybody:
        return EVERYBODY
    if options.address is not None:
        return ("name", options.address)
    if options.method == "jwt" and not options.issuer:
        raise ConfigurationError(
            "--method jwt needs the --issuer of the tokens: another issuer's alice is another caller"
        )
    if options.method == "name":
        return ("name", options.caller)
    return ("principal", options.method, options.issuer, options.caller)


def _print(ledger: Ledger, options: argparse.Namespace, status: BudgetStatus, *, note: str) -> int:
    who = f"{options.method} {options.caller!r}"
    if options.everybody or options.address is not None:
        who = options.address or "everybody"
    sys.stdout.write(
        f"{ledger.name}: {who} has {status.remaining} of {status.limit} left, {status.used} spent, "
        f"until {status.resets_at:%Y-%m-%d %H:%M} UTC{f'  ({note})' if note else ''}\n"
    )
    return YES


def _address(text: str) -> str:
    address = parse_address(text.removesuffix("/64"))
    if address is None:
        raise argparse.ArgumentTypeError("an address, such as 192.0.2.1 or 2001:db8::1")
    return caller_at(address)


def _units(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_UNITS):
        raise argparse.ArgumentTypeError("a whole number of at least 1")
    return int(text)
