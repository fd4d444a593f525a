"""The gate in front of a model file: signature, then format, then content, and only then anything of it runs."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlguard._numbers import whole
from mlguard.artifacts._onnx_files import load_onnx
from mlguard.artifacts._pickle_contents import PickleContents
from mlguard.artifacts._private_copy import PrivateCopy, read_once
from mlguard.artifacts._signing_keys import PublicKey
from mlguard.artifacts._skops_files import load_skops, untrusted_types
from mlguard.artifacts._symbols import Name, spell_some
from mlguard.artifacts._tensor_files import load_npy, load_npz, load_safetensors
from mlguard.artifacts._unpickling import require_joblib, unpickle
from mlguard.artifacts.allowed_globals import checked_names
from mlguard.artifacts.compression import compression_of, decompress
from mlguard.artifacts.model_formats import format_of
from mlguard.artifacts.pickle_globals import read_pickle
from mlguard.artifacts.signing import signed_files, verify_model
from mlguard.errors import ConfigurationError, ModelContentError, ModelSignatureError
from mlguard.monitoring.events import record_event

#: Bytes that a model file may have, and what is in it if it is compressed.
MAX_SIZE = 1 << 30
#: Instructions that a pickle may have. A random forest of 100 MB has 30 000.
MAX_INSTRUCTIONS = 10_000_000

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def load_model(
    path: str | os.PathLike[str] | bytes,
    *,
    key: PublicKey | Sequence[PublicKey] | None = None,
    signature: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    name: str | None = None,
    ignore: Iterable[str] = (),
    sha256: str | None = None,
    unverified: bool = False,
    allow: Iterable[Name] = (),
    format: str | None = None,  # noqa: A002  # what it is
    max_size: int = MAX_SIZE,
    max_instructions: int = MAX_INSTRUCTIONS,
) -> Any:
    """Load a model if it is the one that was signed, and if nothing in it can run what nobody has allowed.

    First comes the signature, or the SHA-256 that you have pinned. Then the format: what the content is, which must be
    what the name says, and the whole file must be that. Then the content. Of a file that is refused nothing was
    imported or called. The bytes that are verified are the ones that are loaded: they are read once, into memory that
    nobody else can write to.

    It guards against a file that was replaced or altered, and against code in a model file: a pickle may name only the
    globals in ``allow``, and do with them only what scikit-learn, NumPy and joblib do. It does not guard against a
    model that is bad and well-formed: one that was trained on poisoned data, or has a backdoor in its weights. Nor
    against what you allow yourself: to allow a class or a function is to let the file run it, with arguments of its
    choice.

    It blocks for as long as it takes: call it at start-up, not in a request.

    Args:
        path: The file; or what it holds, as bytes, such as ``read_encrypted_model`` gives.
        key: Who may have signed it, as for ``verify_model``.
        signature: The signature, as for ``verify_model``.
        directory: The folder that was signed and that the file is in. None: the file was signed by itself.
        name: What the signer must have called the model. None: anything.
        ignore: Paths in ``directory`` that may be there unsigned.
        sha256: The digest that the file must have, 64 hexadecimal digits. Instead of a signature, or beside it.
        unverified: ``True`` loads a file that nobody has signed or pinned. Whoever can write to it chooses the model.
        allow: The globals that a pickle, a joblib file or a skops file may name: ready sets such as
            ``SKLEARN_FORESTS``, and ``(module, name)`` pairs of your own, joined by ``|``. By default none.
        format: What the file is if its suffix does not say so: ``"joblib"``, ``"pickle"``, ``"npy"``, ``"npz"``,
            ``"safetensors"``, ``"onnx"`` or ``"skops"``.
        max_size: Bytes that the file may have, and what comes out of it if it is compressed.
        max_instructions: How long a pickle may be. Each instruction may take a hundred bytes of memory.

    Returns:
        What was saved. A dict of arrays from safetensors and ``.npz``; an array from ``.npy``; an ``onnx.ModelProto``.

    Raises:
        ModelSignatureError: The file is not the one that was signed or pinned.
        ModelContentError: Its format or its content is refused. The text names the globals that are not allowed.
        ConfigurationError: A setting cannot work, nothing says which file it has to be, or a package is missing or too
            old.
        OSError: The file cannot be read.
    """
    content = path if isinstance(path, bytes) else None
    place = Path("model") if isinstance(path, bytes) else _place(path)
    allowed = checked_names(allow)
    size = whole("load_model(max_size=...)", max_size, least=1)
    instructions = whole("load_model(max_instructions=...)", max_instructions, least=1)
    wanted = _wanted(key, sha256, unverified=unverified)
    if key is not None and content is not None:
        raise ConfigurationError("load_model(key=...) verifies files: bytes are pinned by sha256=...")
    if key is not None:
        digest = _signed_digest(place, directory, key=key, signature=signature, name=name, ignore=ignore)
        wanted.append(digest)
    elif (directory, signature, name, tuple(ignore)) != (None, None, None, ()):
        raise ConfigurationError(
            "load_model(signature=..., directory=..., name=..., ignore=...) are of use with key=..."
        )

    gate = _Gate(place, format, allowed, size, instructions)
    found = None
    try:
        copy, found = _read_and_hash(place if content is None else content, size)
        if any(found != one for one in wanted):
            raise ModelSignatureError("the file is not the one that was signed or pinned: its SHA-256 is another")
        model = gate.load(copy)
    except (ModelContentError, ModelSignatureError) as error:
        record_event("model.refused", model=place.name, digest=found, reason=type(error).__name__)
        raise
    record_event("model.loaded", model=place.name, digest=found, format=gate.format)
    return model


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What is in a model file, found without running any of it.

    Attributes:
        format: Such as ``"pickle"``, which is that of joblib's files too.
        compression: Such as ``"zlib"``. None: none.
        sha256: Of the file, in hexadecimal.
        globals: Every ``(module, name)`` pair that loading it would import, in the order in which the file names them.
            For skops, the types that it does not trust by itself, as module and name.
        problems: What makes ``load_model`` refuse it whatever is allowed.
    """

    format: str
    compression: str | None
    sha256: str
    globals: tuple[Name, ...]
    problems: tuple[str, ...]


def inspect_model(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002  # what it is
    max_size: int = MAX_SIZE,
    max_instructions: int = MAX_INSTRUCTIONS,
) -> ModelReport:
    """Say what is in a model file, and what it would import, without running any of it.

    Args:
        path: The file.
        format: As for ``load_model``.
        max_size: As for ``load_model``.
        max_instructions: As for ``load_model``.

    Returns:
        What was found. A file with problems is listed as far as it can be read.

    Raises:
        ModelContentError: It is of no format that mlguard knows, or of another than its name says.
        ConfigurationError: A setting cannot work, or a package is missing.
        OSError: The file cannot be read.
    """
    place = _place(path)
    size = whole("inspect_model(max_size=...)", max_size, least=1)
    instructions = whole("inspect_model(max_instructions=...)", max_instructions, least=1)
    copy, digest = _read_and_hash(place, size)
    gate = _Gate(place, format, frozenset(), size, instructions)
    names, problems = gate.inspect(copy)
    compression = compression_of(copy.view) if gate.format == "pickle" else None
    return ModelReport(gate.format, compression, digest, names, problems)


def _read_and_hash(source: Path | bytes, max_size: int) -> tuple[PrivateCopy, str]:
    """What is in a file, or the bytes themselves, and their SHA-256: of each piece while the next one is read."""
    if isinstance(source, bytes):
        return PrivateCopy(source), hashlib.sha256(source).hexdigest()
    hashed = hashlib.sha256()
    with ThreadPoolExecutor(1, thread_name_prefix="mlguard-digest") as beside:  # one, so that they keep their order
        copy = read_once(source, max_size=max_size, watch=lambda piece: beside.submit(hashed.update, piece))
    return copy, hashed.hexdigest()


class _Gate:
    """Format and content of one file, whose bytes are the ones that it has to have."""

    def __init__(
        self, place: Path, wanted: str | None, allowed: frozenset[Name], max_size: int, max_instructions: int
    ) -> None:
        self.format = ""
        self._place = place
        self._wanted = wanted
        self._allowed = allowed
        self._max_size = max_size
        self._max_instructions = max_instructions

    def load(self, copy: PrivateCopy) -> Any:
        """Make what was saved."""
        self.format = format_of(self._place, copy.view, wanted=self._wanted)
        if self.format == "pickle":
            copy, contents = self._read_pickle(copy)
            _check_names(contents, self._allowed)
            return unpickle(copy, contents, self._allowed)
        return self._load_other(copy)

    def inspect(self, copy: PrivateCopy) -> tuple[tuple[Name, ...], tuple[str, ...]]:
        """What it would import, and what is wrong with it."""
        self.format = format_of(self._place, copy.view, wanted=self._wanted)
        names: list[Name] = []
        problems: list[str] = []
        try:
            if self.format == "pickle":
                _, contents = self._read_pickle(copy)
                names, problems = contents.names, contents.problems
            elif self.format == "skops":
                names = untrusted_types(copy.as_bytes(), max_size=self._max_size)
            else:
                self._load_other(copy)
        except ModelContentError as error:
            problems.append(str(error))
        return tuple(dict.fromkeys(names)), tuple(problems)

    def _read_pickle(self, copy: PrivateCopy) -> tuple[PrivateCopy, PickleContents]:
        compression = compression_of(copy.view)
        if compression is not None:
            copy = PrivateCopy(decompress(copy.view, compression, max_size=self._max_size))
        return copy, read_pickle(copy, max_instructions=self._max_instructions)

    def _load_other(self, copy: PrivateCopy) -> Any:
        """Load a format that runs nothing, or that has a list of trusted types of its own."""
        content = copy.as_bytes()
        if self.format == "safetensors":
            return load_safetensors(content)
        if self.format == "npy":
            return load_npy(content)
        if self.format == "npz":
            return load_npz(content, max_size=self._max_size)
        if self.format == "onnx":
            return load_onnx(content)
        return load_skops(content, self._allowed, max_size=self._max_size, max_instructions=self._max_instructions)


def _check_names(contents: PickleContents, allowed: frozenset[Name]) -> None:
    """Refuse what is not allowed, and what nobody who saves a model does."""
    refused = [name for name in dict.fromkeys(contents.names) if name not in allowed]
    if refused:
        raise ModelContentError(
            f"the file names what is not allowed: {spell_some(refused)}. Where you know them to be harmless with any "
            f"arguments, allow=... takes them as pairs, ({refused[0][0][:200]!a}, {refused[0][1][:200]!a}); "
            "to allow one is to let the file run it"
        )
    if contents.problems:
        raise ModelContentError("; ".join(contents.problems))
    if contents.has_joblib_arrays:
        require_joblib()


def _place(path: object) -> Path:
    if isinstance(path, str | os.PathLike) and "\0" not in str(path) and str(path):
        return Path(path)
    raise ConfigurationError("load_model(path) is the path of a file")


def _wanted(key: object, sha256: object, *, unverified: object) -> list[str]:
    """The digests that the file must have, as far as they are known without looking at it."""
    if not isinstance(unverified, bool):
        raise ConfigurationError("load_model(unverified=...) is True or False")
    if unverified == (key is not None or sha256 is not None):
        raise ConfigurationError(
            "load_model needs to know which file it has to be: key=... of who has signed it, or its sha256=...; "
            "unverified=True, alone, loads whatever is there"
        )
    if sha256 is None:
        return []
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256.lower()):
        raise ConfigurationError("load_model(sha256=...) is 64 hexadecimal digits")
    return [sha256.lower()]


def _signed_digest(
    place: Path, directory: Any, *, key: Any, signature: Any, name: str | None, ignore: Iterable[str]
) -> str:
    """The digest that a file must have by its signature, or by that of the folder that it is in.

    A folder is verified whole. A file that was signed by itself is not read for that: it is when it is loaded.
    """
    relative = "."
    if directory is None:
        files = signed_files(place, key, signature=signature, name=name).files
    else:
        root = _place(directory)
        try:
            relative = place.absolute().relative_to(root.absolute()).as_posix()
        except ValueError:
            raise ConfigurationError("load_model(directory=...): the file is not in it") from None
        files = verify_model(root, key, signature=signature, name=name, ignore=ignore).files
    digest = files.get(relative)
    if digest is None:
        raise ModelSignatureError("the file is not among those that were signed")
    return str(digest)
