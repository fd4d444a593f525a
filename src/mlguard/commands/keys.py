"""``mlguard keys``: make, list, rotate, revoke and verify the API keys in a file.

A new key is written to standard output, once and alone, so that it can be piped into a secret store. Everything else
that ``new``, ``rotate`` and ``revoke`` have to say goes to standard error. A key is never taken from the command line,
where other users of the machine could see it.
"""

import argparse
import asyncio
import getpass
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlguard.auth._key_table import KeyTable
from mlguard.auth._last_used import LastUsed
from mlguard.auth.key_files import file_format
from mlguard.auth.key_format import ENVIRONMENTS, claims_form, read_form
from mlguard.auth.key_records import LIVE, APIKey, digest_of
from mlguard.commands._key_editing import Entry, KeyFile, keys_in
from mlguard.errors import ConfigurationError
from mlguard.settings import load_settings
from mlguard.store import default_store

YES, NO, WRONG = 0, 1, 2

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"([0-9]{1,4})([mhdw])", re.ASCII)
_MAX_KEY = 4_096  # bytes read of what should be a key


def add_to(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this command to the parser."""
    keys = subcommands.add_parser("keys", help="make, list, rotate, revoke and verify API keys", description=__doc__)
    actions = keys.add_subparsers(metavar="ACTION", required=True)

    new = _add(actions, "new", _new, "make a key, and write it to standard output")
    new.add_argument("id", help="names the caller")
    new.add_argument("--scope", action="append", default=[], metavar="SCOPE", help="what the caller may do; repeatable")
    new.add_argument("--limit", action="append", default=[], metavar="LIMIT", help="such as 600/minute; repeatable")
    new.add_argument("--expires", type=_moment, metavar="WHEN", help="such as 90d, 2027-01-31 or a date and time")
    new.add_argument("--not-before", type=_moment, metavar="WHEN", help="until when it is refused")
    new.add_argument("--env", choices=ENVIRONMENTS, default="live", help="test: refused in production (default: live)")
    new.add_argument("--comment", default="", help="a line for people")

    _add(actions, "list", _list, "show the keys, without secrets and digests")

    rotate = _add(actions, "rotate", _rotate, "make another key like one, and let that one expire")
    rotate.add_argument("name", metavar="ID", help="of the caller, or the id of one key")
    rotate.add_argument("--overlap", type=_duration, required=True, metavar="TIME", help="how long both hold: 7d, 0h")
    rotate.add_argument("--expires", type=_moment_or_never, metavar="WHEN", help="of the new key; never: it does not")

    revoke = _add(actions, "revoke", _revoke, "refuse a key from now on; its entry stays, disabled")
    revoke.add_argument("name", metavar="ID", help="of the caller, for all their keys, or of one key")

    verify = _add(actions, "verify", _verify, "read a key from standard input, and say whether it holds")
    verify.add_argument(
        "mistakes", nargs="*", help=argparse.SUPPRESS
    )  # argparse would print a key that it did not expect


def _add(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
    parser.add_argument("--file", help="a .toml or .json file of keys (default: MLGUARD_API_KEYS_FILE)")
    parser.set_defaults(run=run, instead="keys are read from standard input, and the file is named by --file FILE")
    return parser


# Actions -------------------------------------------------------------------------------------------------------------


def _new(options: argparse.Namespace) -> int:
    key, secret = APIKey.generate(
        options.id,
        scopes=options.scope,
        expires_at=options.expires,
        not_before=options.not_before,
        limits=options.limit,
        env=options.env,
    )
    with KeyFile(_path(options)).editing(create=True) as file:
        file.add(key, **_about(options.env, options.comment))
        file.save()
    return _hand_out(key, secret, options.env)


def _list(options: argparse.Namespace) -> int:
    path = _path(options)
    now = time.time()
    keys = [*_read(path)]
    head = ["ID", "KEY ID", "STATE", "SCOPES", "LIMITS", "NOT BEFORE", "EXPIRES"]
    rows = [
        [key.id, key.key_id, key.state(now), " ".join(sorted(key.scopes)), ", ".join(key.limits), _day(key.not_before),
         _day(key.expires_at)]
        for key in keys
    ]  # fmt: skip
    used = _last_used(keys)
    if used is not None:
        head.append("LAST USED")
        for row, moment in zip(rows, used, strict=True):
            row.append(_day(moment))
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"{line.rstrip()}\n")
    return YES


def _rotate(options: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    with KeyFile(_path(options)).editing() as file:
        matching = _named(file, options.name)
        old = [(key, entry) for key, entry in matching if key.state(now.timestamp()) == LIVE]
        if not old:
            return _say_no(f"no key that is live is called {_shown(options.name)}")
        last, about = old[-1]
        env = about.get("env", "live")
        if any(
            (k.id, k.scopes, k.limits, e.get("env", "live")) != (last.id, last.scopes, last.limits, env) for k, e in old
        ):
            raise ConfigurationError("the keys of this caller differ: rotate one of them, by its key id")
        if options.expires is None and all(key.expires_at for key, _ in old):
            raise ConfigurationError("the old key expires: say when the new one does, with --expires WHEN or never")
        expires_at = options.expires if isinstance(options.expires, datetime) else None
        key, secret = APIKey.generate(last.id, scopes=last.scopes, expires_at=expires_at, limits=last.limits, env=env)
        end = (now + options.overlap).replace(microsecond=0)
        for one, entry in old:
            if one.expires_at is None or one.expires_at > end:
                file.let_expire(entry, end)
        file.add(key, **_about(env, about.get("comment", "")))
        file.save()
    _say(f"The old key is refused from {end.isoformat()} on.")
    return _hand_out(key, secret, env)


def _revoke(options: argparse.Namespace) -> int:
    return revoke(options.name, _path(options))


def revoke(name: str, path: str) -> int:
    """Disable the keys of a caller, or the one key with this id. Returns the exit code."""
    with KeyFile(path).editing() as file:
        matching = _named(file, name)
        if not matching:
            return _say_no(f"no key is called {_shown(name)}")
        for _, entry in matching:
            entry["disabled"] = True
        file.save()
    _say(f"Revoked: {', '.join(f'{key.key_id} of {key.id}' for key, _ in matching)}.")
    return YES


def _verify(options: argparse.Namespace) -> int:
    if options.mistakes:
        _say("mlguard: a key is read from standard input. One on the command line is seen by others: revoke it")
        return WRONG
    key = _read_key()
    form = read_form(key)
    holds = form is not None
    if form is not None:
        sys.stdout.write(f"form: a {form.environment} key with the id {form.key_id}, and its checksum holds\n")
        if form.environment == "test" and load_settings().env == "production":
            sys.stdout.write("a test key: refused, because MLGUARD_ENV is production\n")
            holds = False
    elif claims_form(key):
        sys.stdout.write("form: it begins as a key of mlguard does, and is not whole or mistyped\n")
    else:
        sys.stdout.write("form: a plain secret, which can only be checked against a file\n")
    path = options.file or load_settings().api_keys_file
    if path:
        found = _read(path).get(digest_of(key))
        state = "unknown" if found is None else found.state(time.time())
        sys.stdout.write(f"file: {state}{'' if found is None else f', key {found.key_id} of {found.id}'}\n")
        holds = state == LIVE and (holds or not claims_form(key))
    return YES if holds else NO


# What they have in common --------------------------------------------------------------------------------------------


def _path(options: argparse.Namespace) -> str:
    path: str = options.file or load_settings().api_keys_file
    if not path:
        raise ConfigurationError("which file? Give --file, or set MLGUARD_API_KEYS_FILE")
    return path


def _read(path: str) -> KeyTable:
    suffix = file_format(path)
    return keys_in(Path(path).read_bytes(), suffix, path)


def _named(file: KeyFile, name: str) -> list[tuple[APIKey, Entry]]:
    """The keys of a caller, or the one key with this id."""
    keys = file.keys()
    matching = [(key, entry) for key, entry in keys if name in {key.id, key.key_id}]
    if len({key.id for key, _ in matching}) > 1:
        raise ConfigurationError("this is the id of a caller and of another caller's key: edit the file by hand")
    return matching


def _about(env: str, comment: str) -> dict[str, Any]:
    created = datetime.now(UTC).replace(microsecond=0)
    return {"created": created, "env": env if env != "live" else None, "comment": str(comment)}


def _hand_out(key: APIKey, secret: str, env: str) -> int:
    note = "; it is refused where MLGUARD_ENV is production" if env == "test" else ""
    _say(f"Key {key.key_id} of {key.id} follows. It is shown this once, and kept nowhere{note}.")
    try:
        sys.stdout.write(f"{secret}\n")
        sys.stdout.flush()
    except OSError:
        _say(f"It could not be written. Nobody has it: mlguard keys revoke {key.key_id}")
        raise
    return YES


def _read_key() -> bytes:
    if sys.stdin.isatty():
        key = getpass.getpass("Key: ").encode("utf-8", "surrogateescape")
    else:
        key = sys.stdin.buffer.readline(_MAX_KEY)
    key = key.strip()
    if not key:
        raise ConfigurationError("standard input has no key; keys are not taken from the command line")
    return key


def _last_used(keys: Sequence[APIKey]) -> list[datetime | None] | None:
    """When each key was last used, where that is kept outside the service's own memory."""
    store = default_store()
    if not store.suspends:
        _say("When keys were last used is known to each service alone: the store is in its memory.")
        return None

    async def read() -> list[datetime | None]:
        last_used = LastUsed(store)
        return [await last_used.read([key]) for key in keys]

    try:
        return asyncio.run(read())
    except Exception as error:  # the rest of the list is worth having
        _say(f"When keys were last used is not known: the store does not answer ({type(error).__name__}).")
        return None


def _moment(text: str) -> datetime:
    """A point in time, or how far it is away."""
    if _DURATION.fullmatch(text):
        return (datetime.now(UTC) + _duration(text)).replace(microsecond=0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("write 90d, 2027-01-31, or a date and time with a zone") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _moment_or_never(text: str) -> datetime | str:
    return text if text == "never" else _moment(text)


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError("write a number and m, h, d or w, such as 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _day(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")


def _shown(name: str) -> str:
    """A name as it may be shown: somebody may have pasted a key."""
    return repr(name) if len(name) <= 32 and not claims_form(name.encode("utf-8", "surrogateescape")) else "this"


def _say_no(text: str) -> int:
    _say(f"mlguard: {text}")
    return NO


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
