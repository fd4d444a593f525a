"""Signatures of model files, in the OpenSSF's Model Signing format, with a plain EC P-256 key.

The signature is a Sigstore bundle around an in-toto statement that lists every file with its SHA-256. The command
``model_signing`` verifies it with ``verify key``, and what ``model_signing sign key`` writes is verified here.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from mlguard._files import replace_file
from mlguard._numbers import whole
from mlguard.artifacts._bundle import open_bundle, write_bundle
from mlguard.artifacts._model_files import ModelFiles, largest_signature, read_small_file
from mlguard.artifacts._paths import ignored_paths, is_name, shown
from mlguard.artifacts._signing_keys import PrivateKey, PublicKey, key_id, private_key, public_keys
from mlguard.artifacts._statement import ITSELF, Statement, make_statement, read_statement, write_statement
from mlguard.errors import ConfigurationError, ModelSignatureError
from mlguard.monitoring.events import record_event

#: Files and folders that a model may have, unless it is told otherwise.
MAX_FILES = 100_000
_MOST_FILES = 10_000_000
_NAMED = 3  # files that a refusal names; the rest is a number


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """A model as it was signed, and as it was on disk when it was verified.

    A file can be written again a moment later. Whoever loads one hashes the bytes that it loads, and compares them with
    ``files``.

    Attributes:
        path: The file or folder that was verified.
        name: What the signer called the model.
        digest: Names the whole model: SHA-256 over the digests of its files, in the order of the statement, in hex.
        key_id: Which key has signed: SHA-256 of the public key in PEM, in hex.
        files: The SHA-256 of each file in hex, by its POSIX path relative to ``path``. It cannot be changed. A model
            that is one file has one entry, ``"."``.
    """

    path: Path
    name: str
    digest: str
    key_id: str
    files: Mapping[str, str] = field(repr=False, hash=False)


def verify_model(
    path: str | os.PathLike[str],
    key: PublicKey | Sequence[PublicKey],
    *,
    signature: str | os.PathLike[str] | None = None,
    name: str | None = None,
    ignore: Iterable[str] = (),
    max_files: int = MAX_FILES,
) -> VerifiedModel:
    """Verify that a model is what somebody has signed, to the last file.

    It guards against a model that was altered, replaced or added to on its way, in a bucket, an image or on the disk.
    Extra, missing, renamed and altered files are refused, and symbolic links, devices, pipes and sockets without being
    opened. It does not guard against a stolen key, a model that was bad before it was signed, an older model of the
    same signer (compare ``digest``), or a file that is written after this has returned (compare ``files``).

    It blocks for as long as it takes to hash the model: call it at start-up, not in a request.

    Args:
        path: The model: a file or a folder, and no link to one.
        key: Who may have signed: a public EC key on the curve P-256, as PEM, as the path of a PEM file or as an object
            of ``cryptography``; or a list of them, while keys are rotated.
        signature: The signature file. None: ``model.sig`` inside a folder, or beside a file, its name and ``.sig``.
        name: What the signer must have called the model. None: anything, so that any model of this signer will do.
        ignore: Relative POSIX paths inside a folder that may be there unsigned, with everything below them, such as
            ``".git"``. They are not looked at. Which paths the signer has ignored makes no difference.
        max_files: How many files and folders there may be. A larger signature than one of so many files is refused too.

    Returns:
        What was verified, to load from.

    Raises:
        ModelSignatureError: There is no signature, it does not hold or is of another kind (Sigstore's keyless one, a
            certificate, shards, another hash than SHA-256), or the model is not what it says.
        ConfigurationError: There is no model at ``path``, or an argument cannot work.
    """
    model = _Model(path, signature, ignore, max_files)
    keys = public_keys(key)
    wanted = _name("name", name) if name is not None else None
    with _recording_refusal(wanted or model.path.name):
        signer, statement = _signed(model, keys, wanted)
        _compare(model, statement)
    record_event("model.verified", model=statement.name, digest=statement.digest, key=signer)
    return VerifiedModel(model.path, statement.name, statement.digest, signer, MappingProxyType({**statement.files}))


def signed_files(
    path: str | os.PathLike[str],
    key: PublicKey | Sequence[PublicKey],
    *,
    signature: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> VerifiedModel:
    """What a signature says of a model, which is not looked at: for a list, and for small files that are hashed anyway.

    Args:
        path: The model.
        key: As for ``verify_model``.
        signature: As for ``verify_model``.
        name: As for ``verify_model``.

    Raises:
        ModelSignatureError: There is no signature, it does not hold, or is of a model with another name.
        ConfigurationError: There is no model at ``path``, or an argument cannot work.
    """
    model = _Model(path, signature, (), MAX_FILES)
    keys = public_keys(key)
    with _recording_refusal(name or model.path.name):
        signer, statement = _signed(model, keys, name)
    return VerifiedModel(model.path, statement.name, statement.digest, signer, MappingProxyType({**statement.files}))


def sign_model(
    path: str | os.PathLike[str],
    key: PrivateKey,
    *,
    signature: str | os.PathLike[str] | None = None,
    name: str | None = None,
    ignore: Iterable[str] = (),
    password: str | bytes | None = None,
    max_files: int = MAX_FILES,
) -> VerifiedModel:
    """Sign a model, so that ``verify_model`` and ``model_signing verify key`` can tell it from every other.

    Args:
        path: The model: a file or a folder, and no link to one.
        key: A private EC key on the curve P-256, as PEM, as the path of a PEM file or as an object of ``cryptography``.
        signature: Where to write the signature, in one step, in the place of another. None: ``model.sig`` inside a
            folder, or beside a file, its name and ``.sig``.
        name: What the model is called. None: the last part of ``path``.
        ignore: Relative POSIX paths inside a folder that are not signed, with everything below them. Who verifies must
            ignore them too.
        password: Of the key. None: it has none.
        max_files: How many files and folders there may be. Who verifies needs as many.

    Returns:
        What was signed.

    Raises:
        ModelSignatureError: The model has what would be refused when it is verified (links, devices, names that are not
            portable, no file at all), or was changed while it was read.
        ConfigurationError: There is no model at ``path``, or an argument cannot work.
        OSError: The signature cannot be written. What was there is as it was.
    """
    model = _Model(path, signature, ignore, max_files)
    signer = private_key(key, password)
    called = _name("name", name) if name is not None else _name("path", model.path.resolve().name)
    statement = make_statement(called, model.files().digests(lambda _path, _digest: None))
    if not statement.files:
        raise ModelSignatureError("the model has no file to sign")
    bundle = write_bundle(write_statement(statement, model.skip), signer)
    if len(bundle) > model.max_signature:
        raise ModelSignatureError("the signature would be too large to be verified: raise max_files")
    replace_file(model.signature, bundle, new_mode=0o644)
    named = key_id(signer.public_key())
    record_event("model.signed", model=statement.name, digest=statement.digest, key=named)
    return VerifiedModel(model.path, statement.name, statement.digest, named, MappingProxyType({**statement.files}))


@contextlib.contextmanager
def _recording_refusal(model: str) -> Iterator[None]:
    try:
        yield
    except ModelSignatureError as error:
        record_event("model.refused", model=model, reason=str(error))
        raise


class _Model:
    """Where a model and its signature are, and what beside them is none of it."""

    def __init__(self, path: object, signature: object, ignore: object, max_files: object) -> None:
        self.path = _path("path", path)
        self.max_files = whole("max_files", max_files, least=1, most=_MOST_FILES)
        self.max_signature = largest_signature(self.max_files)
        if not os.path.lexists(self.path):
            raise ConfigurationError("path: there is no such file or folder")
        is_folder = self.path.is_dir()
        beside = self.path / "model.sig" if is_folder else self.path.with_name(f"{self.path.name}.sig")
        self.signature = beside if signature is None else _path("signature", signature)
        self.skip = ignored_paths(ignore)
        if is_folder:
            self.skip |= self._signature_inside()

    def files(self) -> ModelFiles:
        """The files of the model, without the signature."""
        return ModelFiles(self.path, skip=self.skip, max_files=self.max_files)

    def _signature_inside(self) -> frozenset[str]:
        place = Path(os.path.realpath(self.signature.parent)) / self.signature.name
        root = Path(os.path.realpath(self.path))
        return frozenset({place.relative_to(root).as_posix()} if place.is_relative_to(root) else ())


def _signed(model: _Model, keys: Mapping[str, EllipticCurvePublicKey], name: str | None) -> tuple[str, Statement]:
    """Who has signed, and what."""
    try:
        content = read_small_file(model.signature, model.max_signature)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ModelSignatureError(
            f"the model has no signature that can be read: {os.fspath(model.signature)!a}: {reason}; mlguard model "
            "sign makes one"
        ) from None
    signer, payload = open_bundle(content, keys)
    statement = read_statement(payload)
    if name is not None and statement.name != name:
        raise ModelSignatureError("the signer has called the model by another name than the one that is wanted")
    return signer, statement


def _compare(model: _Model, statement: Statement) -> None:
    """Compare what is there with what was signed: first the names, because they cost nothing."""
    files = model.files()
    signed = statement.files
    for paths, what in (
        (files.paths - signed.keys(), "there and not signed"),
        (signed.keys() - files.paths, "signed and not there, or ignored"),
    ):
        if paths:
            some = ", ".join(map(shown, sorted(paths)[:_NAMED]))
            more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
            raise ModelSignatureError(f"{what}: {some}{more}")

    def check(path: str, digest: str) -> None:
        if digest != signed[path]:
            named = model.path.name if path == ITSELF else path
            raise ModelSignatureError(f"{shown(named)} is not as it was signed")

    files.digests(check)


def _path(where: str, path: object) -> Path:
    if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
        raise ConfigurationError(f"{where} is the path of a file or a folder")
    return Path(path)


def _name(where: str, name: object) -> str:
    if not is_name(name):
        raise ConfigurationError(f"{where} gives the model no name that can be signed: one part of a path, as in iris")
    return name
