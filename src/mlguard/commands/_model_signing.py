"""``mlguard model sign`` and ``verify``: sign a model where it is made, verify it where it is used.

A private key is read from a file or from standard input, and never from the command line, where other users of the
machine could see it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from mlguard.artifacts.signing import MAX_FILES, VerifiedModel, sign_model, verify_model

_YES = 0
_MAX_SECRET = 65_536  # bytes read of what should be a key or a password


def add_to(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these actions to ``mlguard model``."""
    sign = _add(actions, "sign", _sign, "sign a file or a folder with an EC P-256 key")
    sign.add_argument("--key", required=True, metavar="PEM", help="file of the private key; - reads standard input")
    sign.add_argument("--password-file", metavar="FILE", help="file with the password of the key, if it has one")
    sign.add_argument("--name", help="what the model is called (default: the last part of the path)")

    verify = _add(actions, "verify", _verify, "verify that a file or a folder is as it was signed")
    verify.add_argument(
        "--key", required=True, action="append", metavar="PEM", help="file of a public key that may sign; repeatable"
    )
    verify.add_argument("--name", help="what the signer must have called the model")


def _add(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=text,
        description=f"{text.capitalize()}.",
        epilog="Exit codes: 0 it holds, 1 the model is refused, 2 used wrongly, 3 a file or a key cannot be used.",
    )
    parser.add_argument("path", help="the model: a file or a folder")
    parser.add_argument(
        "--signature", metavar="FILE", help="the signature (default: model.sig in a folder, or beside a file, NAME.sig)"
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATH",
        help="a path inside the folder to leave out; repeatable",
    )
    parser.add_argument(
        "--max-files",
        type=int,
        default=MAX_FILES,
        metavar="N",
        help="files and folders it may have (default: %(default)s)",
    )
    parser.set_defaults(run=run)
    return parser


def _sign(options: argparse.Namespace) -> int:
    key = sys.stdin.buffer.read(_MAX_SECRET) if options.key == "-" else Path(options.key)
    password = _password(options.password_file) if options.password_file else None
    signed = sign_model(
        options.path,
        key,
        signature=options.signature,
        name=options.name,
        ignore=options.ignore,
        max_files=options.max_files,
        password=password,
    )
    return _say("signed", signed)


def _verify(options: argparse.Namespace) -> int:
    verified = verify_model(
        options.path,
        [Path(key) for key in options.key],
        signature=options.signature,
        name=options.name,
        ignore=options.ignore,
        max_files=options.max_files,
    )
    return _say("verified", verified)


def _password(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(_MAX_SECRET).rstrip(b"\r\n")


def _say(done: str, model: VerifiedModel) -> int:
    sys.stdout.write(
        f"{done}: {model.name}\nfiles: {len(model.files)}\ndigest: sha256:{model.digest}\nkey: {model.key_id}\n"
    )
    return _YES
