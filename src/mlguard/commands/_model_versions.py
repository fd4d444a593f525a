"""``mlguard model save``, ``list``, ``promote`` and ``rollback``: the versions in a ``ModelStore``.

Keys are read from files and from the environment, never from the command line, where other users of the machine could
see them.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from mlguard.artifacts.model_store import ModelStore
from mlguard.artifacts.model_versions import ModelVersion
from mlguard.commands._model_encryption import add_keys, model_keys_of
from mlguard.commands._model_inspection import add_form, inspected
from mlguard.commands._model_signing import signing_key
from mlguard.errors import ModelContentError, ModelRefusedError

_YES, _NO = 0, 1


def add_to(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these actions to ``mlguard model``."""
    save = _add(actions, "save", _save, "keep a model file as the next version")
    save.add_argument("name", metavar="NAME", help="of the model, such as iris")
    save.add_argument("file", metavar="FILE", help="the model file, which is copied")
    save.add_argument(
        "--code-version", default="", metavar="TEXT", help="of the code that trained it, such as a commit"
    )
    save.add_argument("--data-version", default="", metavar="TEXT", help="of the data that it was trained on")
    add_form(save)
    save.add_argument("--encrypt", action="store_true", help="encrypt it")
    add_keys(save, "encryption-")

    listed = _add(actions, "list", _list, "list the versions, and which are promoted", signs=False)
    listed.add_argument("name", metavar="NAME", nargs="?", help="of the model (default: all of them)")

    promote = _add(actions, "promote", _promote, "have a version served from now on")
    promote.add_argument("name", metavar="NAME", help="of the model")
    promote.add_argument("version", metavar="VERSION", type=_version, help="its number, or latest")

    rollback = _add(actions, "rollback", _rollback, "have the version served again that was promoted before")
    rollback.add_argument("name", metavar="NAME", help="of the model")


def _add(actions: Any, name: str, run: Any, text: str, *, signs: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
    parser.add_argument("store", metavar="STORE", help="the folder of the store")
    parser.add_argument(
        "--verify-key",
        required=True,
        action="append",
        metavar="PEM",
        help="file of a public key that may sign; repeatable",
    )
    if signs:
        parser.add_argument(
            "--signing-key",
            required=True,
            metavar="PEM",
            help="file of the private key; - reads standard input",
        )
    parser.set_defaults(run=run, encrypt=False)
    return parser


def _store(options: argparse.Namespace) -> ModelStore:
    return ModelStore(
        options.store,
        key=[Path(key) for key in options.verify_key],
        signing_key=signing_key(options.signing_key) if "signing_key" in options else None,
        encryption_key=model_keys_of(options) if options.encrypt else None,
    )


def _save(options: argparse.Namespace) -> int:
    """Keep what could be loaded: a promotion of anything else stops every service that starts."""
    problems = inspected(options.file, options).problems
    if problems:
        raise ModelContentError("; ".join(problems))
    saved = _store(options).save(
        options.name, options.file, code_version=options.code_version, data_version=options.data_version
    )
    return _say("saved", saved)


def _promote(options: argparse.Namespace) -> int:
    return _say("promoted", _store(options).promote(options.name, options.version))


def _rollback(options: argparse.Namespace) -> int:
    return _say("rolled back to", _store(options).rollback(options.name))


def _list(options: argparse.Namespace) -> int:
    """List what is there. What is not as it was signed is listed too, and is no success."""
    store = _store(options)
    code = _YES
    names = store.names() if options.name is None else [options.name]
    if not any(store.versions(name) for name in names):
        which = "model" if options.name is None else f"version of {options.name}"
        sys.stderr.write(f"mlguard: there is no {which} in {options.store!r}: is it the folder of the store?\n")
        code = _NO
    for name in names:
        try:
            promoted = store.promoted(name)
        except ModelRefusedError as refusal:
            promoted, code = None, _NO
            sys.stdout.write(f"{name}: no version can be served as the promoted one: {refusal}\n")
        for number in store.versions(name):
            mark = "  promoted" if number == promoted else ""
            try:
                line = _line(store.look_at(name, number))
            except ModelRefusedError as refusal:
                line, code = f"refused: {refusal}", _NO
            sys.stdout.write(f"{name} {number}: {line}{mark}\n")
    return code


def _line(version: ModelVersion) -> str:
    lineage = version.lineage
    facts = {
        "by": version.saved_by,
        "code": lineage.code,
        "data": lineage.data,
        "digest": version.digest[:16],
        "encrypted": "yes" if version.encrypted else "",
    }
    told = "".join(f" {what}={ascii(fact)[1:-1]}" for what, fact in facts.items() if fact)
    return f"{version.saved_at:%Y-%m-%d %H:%M} UTC {version.size} bytes{told}"


def _say(done: str, version: ModelVersion) -> int:
    sys.stdout.write(f"{done} {version.name} {version.version}, digest {version.digest}\n")
    return _YES


def _version(text: str) -> int | str:
    if text == "latest":
        return text
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError("the number of a version, or latest")
    return int(text)
