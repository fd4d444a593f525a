"""``mlguard subject``: what is held of a person, and its erasure.

It works on the store that ``MLGUARD_STORE_URL`` names, on a file of subject keys, and on logs of JSON lines, while the
service runs.
"""

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import orjson

from mlguard._guard import Principal
from mlguard.commands.feedback import open_quarantine
from mlguard.errors import ConfigurationError, UnavailableError
from mlguard.monitoring.feedback_quarantine import FeedbackQuarantine
from mlguard.privacy.subject_key_file import SubjectKeyFile
from mlguard.privacy.subject_keys import SubjectKeys
from mlguard.privacy.subject_rights import erase_subject, export_subject
from mlguard.secrets._files import read_secret_text
from mlguard.store import default_store

T = TypeVar("T")

YES = 0
NO = 1


def add_to(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this command to the parser."""
    subject = subcommands.add_parser("subject", help="export and erase what is held of a person", description=__doc__)
    actions = subject.add_subparsers(metavar="ACTION", required=True)

    export = _add(actions, "export", _export, "write what is held of a person to standard output, as JSON")
    export.add_argument("--log", action="append", default=[], metavar="FILE", help="of JSON lines; repeatable")
    export.add_argument("--alias", action="append", default=[], help="what else stands for them in logs; repeatable")
    export.add_argument("--field", action="append", metavar="MEMBER", help="of records that names a person; repeatable")

    erase = _add(actions, "erase", _erase, "revoke tokens, shred the key and reset budgets of a person")
    erase.add_argument("--token-lifetime", type=float, metavar="SECONDS", help="for how long their tokens may hold yet")
    erase.add_argument("--yes", action="store_true", help="do it: it cannot be undone")


def _add(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
    parser.add_argument("subject", help="who, as in logs and as it is sealed for")
    parser.add_argument("--api-key", action="append", default=[], metavar="ID", help="as whom they call; repeatable")
    parser.add_argument("--signature", action="append", default=[], metavar="ID", help="the same, of signed calls")
    parser.add_argument("--token", action="append", default=[], nargs=2, metavar=("ISSUER", "SUB"), help="of tokens")
    parser.add_argument("--name", action="append", default=[], help="what by= returns for them, such as an address")
    parser.add_argument("--keys", metavar="FILE", help="of subject keys")
    parser.add_argument("--quarantine", metavar="FILE", help="of rows with labels that wait for an operator")
    parser.add_argument(
        "--secret", action="append", default=[], metavar="ID=FILE", help="a file with what wraps them; newest first"
    )
    parser.set_defaults(run=run)
    return parser


def _export(options: argparse.Namespace) -> int:
    fields = {"fields": options.field} if options.field else {}
    question = export_subject(
        options.subject,
        callers=_callers(options),
        keys=_keys(options),
        quarantine=_quarantine(options),
        logs=options.log,
        names=options.alias,
        **fields,
    )
    sys.stdout.write(_ask(question).as_json().decode() + "\n")
    return YES


def _erase(options: argparse.Namespace) -> int:
    if not options.yes:
        raise ConfigurationError("an erasure cannot be undone: say --yes")
    callers = _callers(options)
    if callers and default_store().forgets_on_restart:  # it would revoke tokens in the memory of this command
        raise ConfigurationError(
            "MLGUARD_STORE_URL is memory://: what the service has counted is in its own memory, out of reach here. "
            "Call erase_subject in the service; or leave out as whom they call, to shred the key alone"
        )
    question = erase_subject(
        options.subject,
        callers=callers,
        keys=_keys(options),
        quarantine=_quarantine(options),
        token_lifetime=options.token_lifetime,
    )
    erasure = _ask(question)
    sys.stdout.write(orjson.dumps(dataclasses.asdict(erasure), option=orjson.OPT_INDENT_2).decode() + "\n")
    if erasure.key_shredded or erasure.tokens_revoked or erasure.budgets_reset or erasure.feedback_removed:
        return YES
    sys.stderr.write("mlguard: there was nothing to erase; is it the right person, written as elsewhere?\n")
    return NO


def _callers(options: argparse.Namespace) -> list[Principal | str]:
    return [
        *(Principal(id_, method="api-key") for id_ in options.api_key),
        *(Principal(id_, method="signature") for id_ in options.signature),
        *(Principal(id_, method="jwt", issuer=issuer or None) for issuer, id_ in options.token),
        *options.name,
    ]


def _quarantine(options: argparse.Namespace) -> FeedbackQuarantine | None:
    return None if options.quarantine is None else open_quarantine(options.quarantine)


def _keys(options: argparse.Namespace) -> SubjectKeys | None:
    if options.keys is None:
        return None
    if not Path(options.keys).is_file():  # a new one would hold nobody
        raise ConfigurationError("--keys: there is no such file")
    secrets: dict[str, str] = {}
    for secret in options.secret:
        key_id, _, path = secret.partition("=")
        if not path or key_id in secrets:
            raise ConfigurationError("--secret is ID=FILE, with another ID for each")
        secrets[key_id] = read_secret_text(path, where=f"--secret {key_id}=").strip()
    return SubjectKeys(SubjectKeyFile(options.keys), keys=secrets)


def _ask(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except UnavailableError as refusal:
        reason = refusal.reason
    raise ConfigurationError(f"not all is done, do it again: {reason}")
