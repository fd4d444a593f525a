"""What is signed: an in-toto statement that lists every file of the model with its digest.

The predicate is the one of the OpenSSF's Model Signing, version 1.0
(https://github.com/sigstore/model-transparency), around https://github.com/in-toto/attestation (Statement, version 1).
Files are listed whole and by SHA-256, which is what ``model_signing`` does unless it is told otherwise.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mlguard._strict_json import strict_json
from mlguard.artifacts._paths import is_name, is_portable
from mlguard.errors import ModelSignatureError

#: What a model that is one file is called inside its own statement.
ITSELF = "."

_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signer says of a model.

    Attributes:
        name: What the model is called.
        digest: Of the whole: SHA-256 over the digests of the files, in their order, in hex.
        files: The SHA-256 of each file in hex, by its relative POSIX path.
    """

    name: str
    digest: str
    files: Mapping[str, str]


def make_statement(name: str, files: Mapping[str, str]) -> Statement:
    """State what a model consists of."""
    ordered = {path: files[path] for path in sorted(files, key=lambda path: path.split("/"))}  # as model_signing sorts
    return Statement(name, _digest_of_all(ordered.values()), ordered)


def write_statement(statement: Statement, ignored: Collection[str]) -> bytes:
    """A statement as the payload that is signed.

    Args:
        statement: What to write.
        ignored: Which paths were left out, for verifiers that follow such a list. ``verify_model`` does not.
    """
    predicate = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": sorted(ignored),
        },
        "resources": [
            {"name": path, "algorithm": "sha256", "digest": digest} for path, digest in statement.files.items()
        ],
    }
    document = {
        "_type": _STATEMENT,
        "subject": [{"name": statement.name, "digest": {"sha256": statement.digest}}],
        "predicateType": _PREDICATE,
        "predicate": predicate,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def read_statement(payload: bytes) -> Statement:
    """Read what was signed. A signature that holds is no reason to read it leniently.

    Raises:
        ModelSignatureError: It is no such statement, hashes in another way, or contradicts itself.
    """
    try:
        document = strict_json(payload)
    except ValueError:
        raise ModelSignatureError("what was signed is no strict JSON") from None
    top = _members(document, "_type", "subject", "predicateType", "predicate")
    if top["_type"] != _STATEMENT or top["predicateType"] != _PREDICATE:
        raise ModelSignatureError("what was signed is no statement about a model, or of another version than 1.0")
    predicate = top["predicate"]
    if not isinstance(predicate, dict):  # other members may be there, and are to be ignored, as version 1.0 says
        raise ModelSignatureError("the signed statement has no predicate")
    _check_serialization(predicate.get("serialization"))
    files = _files(predicate.get("resources"))
    name, digest = _subject(top["subject"])
    if _digest_of_all(files.values()) != digest:
        raise ModelSignatureError("the signed statement contradicts itself: the digest of the whole is another one")
    return Statement(name, digest, files)


def _check_serialization(form: object) -> None:
    if not isinstance(form, dict):
        raise ModelSignatureError("the signed statement does not say how files were hashed")
    if form.get("method") != "files" or form.get("hash_type") != "sha256":
        raise ModelSignatureError(
            "the model was signed in shards, or with another hash than SHA-256: sign it with the defaults of "
            "model_signing, or with sign_model"
        )
    # Its ignore_paths are the signer's, and whoever loads the model may follow links: neither is taken over.


def _files(resources: object) -> dict[str, str]:
    if not isinstance(resources, list) or not resources:
        raise ModelSignatureError("the signed statement lists no file")
    files: dict[str, str] = {}
    for resource in resources:
        entry = _members(resource, "name", "algorithm", "digest")
        path = entry["name"]
        if not isinstance(path, str) or not (is_portable(path) or path == ITSELF):
            raise ModelSignatureError("the signed statement has a path that leads out of the model or is not portable")
        if path in files:
            raise ModelSignatureError("the signed statement lists a file twice")
        if entry["algorithm"] != "sha256":
            raise ModelSignatureError("the signed statement has a digest that is none of SHA-256")
        files[path] = _hex_digest(entry["digest"])
    if ITSELF in files and len(files) > 1:
        raise ModelSignatureError("the signed statement is of one file and of a folder at the same time")
    return files


def _subject(subjects: object) -> tuple[str, str]:
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise ModelSignatureError("the signed statement must be about one model")
    subject = _members(subjects[0], "name", "digest")
    if not is_name(subject["name"]):
        raise ModelSignatureError("the signed statement has no name for the model that is one part of a path")
    return subject["name"], _hex_digest(_members(subject["digest"], "sha256")["sha256"])


def _members(value: object, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != {*names}:
        raise ModelSignatureError("the signed statement does not have the members that it must have")
    return value


def _hex_digest(value: object) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ModelSignatureError("the signed statement has a digest that is none of SHA-256")
    return value


def _digest_of_all(digests: Collection[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
