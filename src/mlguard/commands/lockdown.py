"""``mlguard lockdown``: shut something in an incident, on every worker of the services within a second.

It works on the store that ``MLGUARD_STORE_URL`` names, the same as the services', while they run. Each change says who
made it, and ends by itself where ``--for`` says when.
"""

import argparse
import contextlib
import getpass
import sys
import time
from typing import TypeVar

from mlguard.auth.revocations import Revocations
from mlguard.commands import keys
from mlguard.commands._shared_store import ask, shared_store
from mlguard.commands._times import length
from mlguard.errors import ConfigurationError
from mlguard.monitoring._lockdown_state import (
    Block,
    UnreadableError,
    has_ended,
    lift_blocks,
    read_state,
    reset,
    set_block,
    spell_time,
    store_clock,
    stored,
)
from mlguard.settings import load_settings
from mlguard.store import Store
from mlguard.traffic.addresses import networks

T = TypeVar("T")

YES, NO = 0, 1
_METHODS = ("api-key", "jwt", "signature")
_KINDS = {"principal": "the principal", "address": "the network", "route": "the path", "everything": "all but health"}


def add_to(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this command to the parser."""
    text = "block callers, networks, routes or everything; pin a model"
    lockdown = subcommands.add_parser("lockdown", help=text, description=__doc__)
    actions = lockdown.add_subparsers(metavar="ACTION", required=True)

    block = actions.add_parser("block", help="refuse something from now on", description="Refuse from now on:")
    _add_targets(block, _block)
    label_only = actions.add_parser(
        "label-only", help="answer everybody with the label alone", description="Answer with the label alone."
    )
    label_only.set_defaults(run=_block, kind="label-only", target="")
    _add_terms(label_only)
    pin = actions.add_parser("pin", help="serve this version of a model", description="Serve a version of a model.")
    pin.add_argument("target", metavar="MODEL", help="its name")
    pin.add_argument("version", type=_version, help="its number in the store of models")
    pin.set_defaults(run=_block, kind="pin")
    _add_terms(pin)

    lift = actions.add_parser("lift", help="end what is locked down", description="End what is locked down:")
    targets = _add_targets(lift, _lift)
    for kind, metavar in (("label-only", None), ("pin", "MODEL"), ("all", None)):
        _add_target(targets, kind, metavar, "", _lift)
    listing = actions.add_parser("list", help="show what is locked down", description="Show what is locked down.")
    listing.set_defaults(run=_list)
    text = "begin the record anew, where it cannot be read"
    anew = actions.add_parser("reset", help=text, description=f"{text.capitalize()}.")
    anew.set_defaults(run=_reset)
    anew.add_argument("--yes", action="store_true", help="also where it can be read, and what is locked down is lost")
    _add_who(anew)


def _add_targets(parser: argparse.ArgumentParser, run: object) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    targets = parser.add_subparsers(metavar="WHAT", required=True)
    for kind, text in _KINDS.items():
        metavar = {"principal": "ID", "address": "NETWORK", "route": "PATH"}.get(kind)
        _add_target(targets, kind, metavar, text, run)
    return targets


def _add_target(
    targets: "argparse._SubParsersAction[argparse.ArgumentParser]",
    kind: str,
    metavar: str | None,
    text: str,
    run: object,
) -> None:
    target = targets.add_parser(kind, help=text or kind)
    target.set_defaults(run=run, kind=kind, target="")
    if metavar is not None:
        target.add_argument("target", metavar=metavar, type=_network if kind == "address" else str)
    if kind == "principal":
        target.add_argument("--method", choices=_METHODS, help="how it proves who it is (default: however)")
        target.add_argument("--issuer", help="of its tokens (iss), for jwt (default: whoever)")
    if run is _block:
        _add_terms(target)
        if kind == "principal":
            text = "also disable its keys in the file, and revoke its tokens of the --issuer"
            target.add_argument("--revoke", action="store_true", help=text)
            text = "for how long its tokens may hold (default: 30d, as TokenIssuer's sessions)"
            target.add_argument("--token-lifetime", type=_seconds, default=30 * 86_400, metavar="TIME", help=text)
            target.add_argument("--file", help="of the keys (default: MLGUARD_API_KEYS_FILE)")
    else:
        _add_who(target)


def _add_terms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--for", dest="ttl", type=_seconds, metavar="TIME", help="how long: 30m, 2h, 7d (default: on)")
    _add_who(parser)


def _add_who(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="", help="why, for the list and the audit log")
    parser.add_argument("--by", default=None, help="who (default: the user of this machine)")


# Actions -------------------------------------------------------------------------------------------------------------


def _block(options: argparse.Namespace) -> int:
    block = Block(
        options.kind,
        options.target,
        getattr(options, "method", None),
        getattr(options, "issuer", None),
        version=getattr(options, "version", None),
        by=_who(options),
        reason=options.reason,
    )
    done, _ = ask(set_block(shared_store(), block, ttl=options.ttl))
    until = "until it is lifted" if done.until is None else f"until {spell_time(done.until)}"
    sys.stdout.write(f"{_shown(str(done))}, {until}\n")
    return _revoke(options) if getattr(options, "revoke", False) else YES


def _revoke(options: argparse.Namespace) -> int:
    """Once it is blocked: what it holds is not to hold again when the block ends."""
    revocations = Revocations(store=shared_store())
    ask(revocations.revoke_all(options.target, issuer=options.issuer, lifetime=options.token_lifetime))
    whose = "without an issuer" if options.issuer is None else f"of {_shown(options.issuer)}"
    sys.stdout.write(f"its tokens {whose} are revoked, where the service looks at revocations\n")
    path = options.file or load_settings().api_keys_file
    if not path:
        sys.stdout.write("its keys are in no file: neither --file nor MLGUARD_API_KEYS_FILE names one\n")
        return YES
    return keys.revoke(options.target, path)


def _lift(options: argparse.Namespace) -> int:
    wanted = Block(options.kind, options.target, getattr(options, "method", None), getattr(options, "issuer", None)).key

    def matches(block: Block) -> bool:
        same = wanted[:2] == block.key[:2]
        return options.kind == "all" or (
            same and all(w in {None, b} for w, b in zip(wanted[2:], block.key[2:], strict=True))
        )

    lifted, _ = ask(lift_blocks(shared_store(), matches, by=_who(options), reason=options.reason))
    for block in lifted:
        sys.stdout.write(f"lifted: {_shown(str(block))}\n")
    if not lifted:
        sys.stderr.write("mlguard: nothing of this is locked down; mlguard lockdown list shows what is\n")
    return YES if lifted else NO


def _in_force() -> tuple[list[Block], float]:
    """What is locked down, and the store's time.

    Raises:
        UnreadableError: Nobody knows.
    """

    async def read(store: Store) -> tuple[bytes | None, float]:
        return await stored(store), await store_clock(store)

    record, now = ask(read(shared_store()))
    return [block for block in read_state(record).blocks if not has_ended(block, now)], now


def _list(options: argparse.Namespace) -> int:  # noqa: ARG001  # as of every action
    try:
        blocks, now = _in_force()
    except UnreadableError as error:
        raise ConfigurationError(f"{error}: everything is refused; mlguard lockdown reset begins it anew") from None
    for block in blocks:
        # By the clock of this machine: whoever set it may have had another.
        until = "" if block.ends is None else f" until {spell_time(time.time() + block.ends - now)}"
        reason = f": {_shown(block.reason)}" if block.reason else ""
        since = spell_time(block.since)
        sys.stdout.write(f"{_shown(str(block))}  since {since}{until} by {_shown(block.by)}{reason}\n")
    if not blocks:
        sys.stdout.write("Nothing is locked down.\n")
    return YES


def _reset(options: argparse.Namespace) -> int:
    with contextlib.suppress(UnreadableError):  # which is what it is for
        if not options.yes and (blocks := _in_force()[0]):
            raise ConfigurationError(
                f"the record can be read, and a reset would lose what is locked down ({len(blocks)}): see mlguard "
                "lockdown list, end it by mlguard lockdown lift, or say --yes"
            )
    ask(reset(shared_store(), by=_who(options), reason=options.reason))
    sys.stdout.write(
        "The record is begun anew. Workers that know what was locked down add that again: look at the list\n"
    )
    return YES


# What they have in common --------------------------------------------------------------------------------------------


def _who(options: argparse.Namespace) -> str:
    if options.by is not None:
        return str(options.by)
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def _shown(text: str) -> str:
    """As it may be shown on a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _network(text: str) -> str:
    try:
        return str(networks([text], where="an address")[0])
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> int:
    return int(length(text).total_seconds())


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) < 2**63):
        raise argparse.ArgumentTypeError("a whole number of at least 1")
    return int(text)
