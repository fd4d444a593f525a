"""``mlguard model encrypt``, ``decrypt`` and ``rewrap``.

Keys come from the environment and from files, never from the command line, where other users of the machine could see
them. Where several are named, the first encrypts and all decrypt.
"""

import argparse
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mlguard.artifacts.encryption import decrypt_model, encrypt_model, rewrap_model
from mlguard.artifacts.fernet_files import read_fernet_model
from mlguard.artifacts.key_wrapping import KEY_BYTES, ModelKey
from mlguard.errors import ConfigurationError
from mlguard.settings import load_settings

_NAME = re.compile("[A-Z][A-Z0-9_]{0,63}", re.ASCII)  # as variables are named; a key in base64 has small letters too
_LONGEST_KEY = 4_096  # bytes read of what should be a key


def add_to(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these actions to ``mlguard model``."""
    encrypt = _add(actions, "encrypt", _encrypt, "encrypt a model file")
    _add_files(encrypt, "the model", "where the encrypted file goes")
    encrypt.add_argument(
        "--fernet-key-env", metavar="NAME", help="SOURCE is encrypted with Fernet, under the key in this variable"
    )
    encrypt.add_argument("--fernet-key-file", metavar="FILE", help="the same, with the key in a file")

    decrypt = _add(actions, "decrypt", _decrypt, "decrypt a model file")
    _add_files(decrypt, "the encrypted file", "where the model goes, with mode 0600 if it is new")

    rewrap = _add(actions, "rewrap", _rewrap, "put encrypted files under the first of several keys, without decrypting")
    rewrap.add_argument("files", nargs="+", metavar="FILE", help="an encrypted file, which is replaced in one step")


def _add(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
    parser.set_defaults(run=run, instead="keys are named by --key-env NAME or --key-file FILE")
    add_keys(parser)
    return parser


def add_keys(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add the options that say where the keys are: ``--key-env`` and ``--key-file``, or the same with a prefix."""
    parser.set_defaults(keys=[])
    for option, what in (("env", "NAME"), ("file", "FILE")):
        parser.add_argument(
            f"--{prefix}key-{option}",
            action="append",
            dest="keys",
            type=partial(_place, option),
            metavar=what,
            help="a key in base64; repeatable (default: MLGUARD_MODEL_KEY)",
        )


def _add_files(parser: argparse.ArgumentParser, source: str, target: str) -> None:
    parser.add_argument("source", metavar="SOURCE", help=source)
    parser.add_argument("target", metavar="TARGET", help=target)
    parser.add_argument("--name", required=True, help="what the model is called")
    parser.add_argument("--version", required=True, help="which version it is")


def _encrypt(options: argparse.Namespace) -> int:
    source: str | bytes = options.source
    places = [("env", options.fernet_key_env), ("file", options.fernet_key_file)]
    fernet_keys = [_read_text(kind, place) for kind, place in places if place is not None]
    if fernet_keys:
        source = read_fernet_model(options.source, fernet_keys, max_bytes=sys.maxsize)
    encrypt_model(source, options.target, model_keys_of(options), name=options.name, version=options.version)
    return 0


def _decrypt(options: argparse.Namespace) -> int:
    decrypt_model(options.source, options.target, model_keys_of(options), name=options.name, version=options.version)
    return 0


def _rewrap(options: argparse.Namespace) -> int:
    keys = model_keys_of(options)
    for file in options.files:
        done = rewrap_model(file, keys)
        sys.stderr.write(f"{file}: {'now' if done else 'already'} under the key {keys[0].id}\n")
    return 0


def model_keys_of(options: argparse.Namespace) -> list[ModelKey]:
    """The keys that these options name, the one that encrypts first.

    Raises:
        ConfigurationError: One is not there, or is none.
    """
    if options.keys:
        return [_key(kind, place) for kind, place in options.keys]
    key = load_settings().secret("model_key")
    if not key.get_secret_value():
        raise ConfigurationError("which key? Set MLGUARD_MODEL_KEY, or give --key-env or --key-file")
    return [ModelKey(key)]


def _key(kind: str, place: str) -> ModelKey:
    if kind == "file":
        content = _read_file(place)
        if len(content) == KEY_BYTES:
            return ModelKey(content)
    return ModelKey(_read_text(kind, place))


def _read_text(kind: str, place: str) -> str:
    if kind == "env":
        text = os.environ.get(place, "")
        if not text:
            shown = repr(place) if _NAME.fullmatch(place) else "that is named"  # and may be the key itself
            raise ConfigurationError(f"the variable {shown} has no key: set it, or name another place")
        return text
    try:
        return _read_file(place).decode().strip()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{place!r} has no key in it") from None


def _read_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(_LONGEST_KEY)


def _place(kind: str, place: str) -> tuple[str, str]:
    return kind, place
