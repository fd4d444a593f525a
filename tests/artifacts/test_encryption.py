"""Encrypted model files, attacked."""

import contextlib
import io
import json
import logging
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.artifacts import encryption
from mlguard.artifacts._encrypted_header import Header, Identity
from mlguard.artifacts.encryption import (
    decrypt_model,
    decrypted_model,
    encrypt_model,
    read_encrypted_model,
    rewrap_model,
)
from mlguard.artifacts.key_wrapping import ModelKey
from mlguard.errors import ConfigurationError, ModelDecryptionError

tink = pytest.importorskip("tink")

SEGMENT = 1024 * 1024
KEY, OTHER_KEY = ModelKey(secrets.token_bytes(32)), ModelKey(secrets.token_bytes(32))
IRIS: dict[str, Any] = {"name": "iris", "version": 3}
MODEL = secrets.token_bytes(3 * SEGMENT + 5)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model of four segments, encrypted."""
    path = tmp_path_factory.mktemp("sealed") / "iris.enc"
    encrypt_model(MODEL, path, KEY, **IRIS)
    return path.read_bytes()


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def header_of(content: bytes) -> tuple[Header, bytes]:
    """A header, and what is behind it."""
    file = io.BytesIO(content)
    return Header.read(file), file.read()


def refused(folder: Path, content: bytes, key: Any = KEY, **asked: Any) -> str:
    """What is wrong with a file: every way of reading it says the same, and leaves nothing."""
    source, target = folder / "attacked.enc", folder / "target"
    source.write_bytes(content)
    before = names(folder)
    identity = IRIS | asked
    with pytest.raises(ModelDecryptionError) as read:
        read_encrypted_model(source, key, **identity)
    with pytest.raises(ModelDecryptionError) as decrypted:
        decrypt_model(source, target, key, **identity)
    with pytest.raises(ModelDecryptionError) as lent, decrypted_model(source, key, **identity, folder=folder):
        raise AssertionError("it was lent")
    assert names(folder) == before
    assert str(read.value) == str(decrypted.value) == str(lent.value)
    return str(read.value)


# What it is for ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [0, 1, SEGMENT - 57, SEGMENT - 56, SEGMENT - 55, 2 * SEGMENT - 72, 2 * SEGMENT - 71, 3 * SEGMENT],
)
def test_a_model_comes_back_as_it_was(size: int, tmp_path: Path) -> None:
    """Of any size, also where the last segment is full or has one byte, in each of the ways to read it."""
    plain, sealed, copy = tmp_path / "iris.skops", tmp_path / "iris.skops.enc", tmp_path / "copy"
    plain.write_bytes(MODEL[:size])
    encrypt_model(plain, sealed, KEY, **IRIS)
    decrypt_model(sealed, copy, KEY, **IRIS)
    assert copy.read_bytes() == MODEL[:size]
    assert read_encrypted_model(sealed, KEY, **IRIS) == MODEL[:size]
    with decrypted_model(sealed, KEY, **IRIS, folder=tmp_path) as path:
        assert (path.name, path.read_bytes()) == ("iris.skops", MODEL[:size])
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert names(tmp_path) == ["copy", "iris.skops", "iris.skops.enc"]


def test_plaintext_is_for_its_owner_and_ciphertext_for_all(tmp_path: Path) -> None:
    """A new decrypted file has mode 0600, a new encrypted one 0644; each time the ciphertext is another."""
    for name in ("one", "two"):
        encrypt_model(MODEL, tmp_path / name, KEY, **IRIS)
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()
    decrypt_model(tmp_path / "one", tmp_path / "plain", KEY, **IRIS)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"one": 0o644, "two": 0o644, "plain": 0o600}


def test_nothing_of_the_model_or_the_key_stands_in_the_file(sealed: bytes) -> None:
    """Name, version and key id do, as the docs say."""
    assert sealed.startswith(b"mlguard encrypted file 1\n")
    assert b"iris" in sealed[:200]
    assert KEY.id.encode() in sealed[:200]
    assert all(MODEL[at : at + 8] not in sealed for at in range(0, len(MODEL) - 8, SEGMENT // 8))


def test_a_file_can_be_encrypted_in_its_own_place(tmp_path: Path) -> None:
    """Source and target may be one: it is read whole before it is replaced."""
    path = tmp_path / "model"
    path.write_bytes(MODEL)
    encrypt_model(path, path, KEY, **IRIS)
    decrypt_model(path, path, KEY, **IRIS)
    assert path.read_bytes() == MODEL


def test_tink_alone_reads_the_body(sealed: bytes) -> None:
    """The format is Tink's own: the unwrapped keyset and the documented associated data are all that it takes."""
    from tink import secret_key_access, streaming_aead

    header, body = header_of(sealed)
    data_key = header.unwrap(KEY)
    assert data_key is not None
    keyset = tink.proto_keyset_format.parse(data_key, secret_key_access.TOKEN)
    bound = b"mlguard encrypted file 1\n\x00\x04iris\x00\x013"
    with keyset.primitive(streaming_aead.StreamingAead).new_decrypting_stream(io.BytesIO(body), bound) as stream:
        assert stream.read() == MODEL


# Keys, names and versions --------------------------------------------------------------------------------------------


def test_another_key_is_named(sealed: bytes, tmp_path: Path) -> None:
    """The error says which key the file needs and which ones are there, by their ids."""
    text = refused(tmp_path, sealed, OTHER_KEY)
    assert KEY.id in text
    assert OTHER_KEY.id in text


def test_a_key_that_only_has_the_same_id_opens_nothing(sealed: bytes, tmp_path: Path) -> None:
    """The id is a hint, the key decides."""
    liar = ModelKey(secrets.token_bytes(32))
    liar.id = KEY.id
    assert "header is altered" in refused(tmp_path, sealed, liar)


@pytest.mark.parametrize(
    "asked", [{"version": 4}, {"version": "03"}, {"name": "Iris"}, {"name": "iri", "version": "s3"}, {"name": "iris3"}]
)
def test_another_name_or_version_is_named(sealed: bytes, asked: dict[str, Any], tmp_path: Path) -> None:
    """Also where the two together have the same characters."""
    text = refused(tmp_path, sealed, **asked)
    assert "'iris' version '3'" in text
    assert repr(asked.get("name", "iris")) in text


@pytest.mark.parametrize("attacked", ["name", "version"])
def test_a_header_that_tells_another_identity_opens_nothing(sealed: bytes, attacked: str, tmp_path: Path) -> None:
    """Who writes another name or version into the header makes a file that nobody can decrypt."""
    header, body = header_of(sealed)
    forged = replace(header, identity=replace(header.identity, **{attacked: "4"}))
    assert "header is altered" in refused(tmp_path, bytes(forged) + body, **{attacked: "4"})


def test_who_has_the_key_cannot_rename_a_body_by_accident(sealed: bytes, tmp_path: Path) -> None:
    """Even a header rightly made for another version does not fit: the body is bound by itself."""
    header, body = header_of(sealed)
    data_key = header.unwrap(KEY)
    assert data_key is not None
    renamed = replace(header, identity=Identity("iris", "4")).wrapping(data_key, KEY)
    assert "what follows is not" in refused(tmp_path, bytes(renamed) + body, version=4)
    packed = replace(header, packed=True).wrapping(data_key, KEY)
    (tmp_path / "packed").write_bytes(bytes(packed) + body)
    with pytest.raises(ModelDecryptionError, match="what follows is not"):
        decrypt_model(tmp_path / "packed", tmp_path / "target", KEY, **IRIS)


def test_what_is_wrapped_must_be_a_data_key(sealed: bytes, tmp_path: Path) -> None:
    """Who has the key has wrapped something else: bytes, nothing, or a key of another kind."""
    from tink import aead, secret_key_access

    other = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    header, body = header_of(sealed)
    for data_key in (b"", b"x" * 32, tink.proto_keyset_format.serialize(other, secret_key_access.TOKEN)):
        assert "no data key" in refused(tmp_path, bytes(header.wrapping(data_key, KEY)) + body)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, "é" * 128, "\ud800", "\x00", None, 3, b"iris"])
def test_a_name_is_a_printable_text(name: Any, tmp_path: Path) -> None:
    """Anything else is a mistake of whoever calls, and nothing is written."""
    with pytest.raises(ConfigurationError, match="name of a model"):
        encrypt_model(MODEL, tmp_path / "file", KEY, name=name, version=1)
    assert names(tmp_path) == []


@pytest.mark.parametrize("version", ["", True, None, 1.5, -1, 2**64])
def test_a_version_is_a_printable_text_or_a_number(version: Any, tmp_path: Path) -> None:
    """Anything else is a mistake too."""
    with pytest.raises(ConfigurationError, match="version of a model"):
        encrypt_model(MODEL, tmp_path / "file", KEY, name="iris", version=version)


@given(
    st.tuples(st.text("ab\x10é🎈", min_size=1, max_size=5), st.text("ab3é", min_size=1, max_size=5)),
    st.tuples(st.text("ab\x10é🎈", min_size=1, max_size=5), st.text("ab3é", min_size=1, max_size=5)),
)
def test_two_identities_are_never_bound_alike(one: tuple[str, str], other: tuple[str, str]) -> None:
    """The associated data of two different names and versions differ."""
    bounds = [Header(KEY.id, Identity(*pair), packed=False).body_bound for pair in (one, other)]
    assert (bounds[0] == bounds[1]) == (one == other)


# Altered files -------------------------------------------------------------------------------------------------------


def test_every_bit_of_a_file_counts(tmp_path: Path) -> None:
    """Each one of a small file, header and body, turned over, is a file that is refused, and never another error."""
    path = tmp_path / "attacked"
    encrypt_model(b"model", path, KEY, **IRIS)
    right = path.read_bytes()
    with path.open("r+b") as file:
        for at, byte in enumerate(right):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)
                with pytest.raises(ModelDecryptionError):
                    read_encrypted_model(path, KEY, **IRIS)
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert read_encrypted_model(path, KEY, **IRIS) == b"model"


def test_a_file_that_is_cut_short_is_refused(sealed: bytes, tmp_path: Path) -> None:
    """At every edge of a segment and beside it, and anywhere in the header: the error says how much is missing."""
    start = len(sealed) - len(header_of(sealed)[1])
    cuts = {start + segment * SEGMENT + beside for segment in range(4) for beside in (-1, 0, 1, 40)} | {len(sealed) - 1}
    for cut in cuts - {start - 1}:
        assert f"cut short: {len(sealed) - cut} bytes" in refused(tmp_path, sealed[:cut])
    path = tmp_path / "attacked.enc"
    for cut in range(start):
        path.write_bytes(sealed[:cut])
        with pytest.raises(ModelDecryptionError):
            read_encrypted_model(path, KEY, **IRIS)


def test_a_cut_that_the_header_hides_is_refused_too(sealed: bytes, tmp_path: Path) -> None:
    """Where the length in the header fits, Tink finds that the last segment is not the last."""
    header, body = header_of(sealed)
    data_key = header.unwrap(KEY)
    assert data_key is not None
    for cut in (0, 1, 40, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 3 * SEGMENT, len(body) - 1):
        forged = replace(header, length=cut).wrapping(data_key, KEY)
        assert "what follows is not" in refused(tmp_path, bytes(forged) + body[:cut])


@pytest.mark.parametrize("more", [b"\x00", b"x" * SEGMENT, MODEL[:SEGMENT]])
def test_bytes_behind_the_end_are_refused(sealed: bytes, more: bytes, tmp_path: Path) -> None:
    """Even one."""
    assert f"{len(more)} bytes are behind its end" in refused(tmp_path, sealed + more)


SEGMENTS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "swapped": lambda s: [s[0], s[2], s[1], s[3]],
    "the first two swapped": lambda s: [s[1], s[0], s[2], s[3]],
    "the last two swapped": lambda s: [s[0], s[1], s[3], s[2]],
    "one in the place of another": lambda s: [s[0], s[1], s[1], s[3]],
    "duplicated": lambda s: [s[0], s[1], s[1], s[2], s[3]],
    "dropped": lambda s: [s[0], s[2], s[3]],
    "first dropped": lambda s: s[1:],
    "last twice": lambda s: [*s, s[3]],
    "twice": lambda s: s + s,
    "zeros": lambda s: [s[0], bytes(SEGMENT), s[2], s[3]],
}


@pytest.mark.parametrize("how", SEGMENTS)
def test_segments_stay_in_their_places(sealed: bytes, how: str, tmp_path: Path) -> None:
    """Swapped, duplicated or dropped, also where the header's length was made to fit."""
    header, body = header_of(sealed)
    segments = [body[at : at + SEGMENT] for at in range(0, len(body), SEGMENT)]
    assert len(segments) == 4
    attacked = b"".join(SEGMENTS[how](segments))
    assert ("altered" if len(attacked) >= len(body) else "cut short") in refused(tmp_path, bytes(header) + attacked)
    data_key = header.unwrap(KEY)
    assert data_key is not None
    fitting = replace(header, length=len(attacked)).wrapping(data_key, KEY)
    assert "what follows is not" in refused(tmp_path, bytes(fitting) + attacked)


def test_headers_and_segments_of_two_files_are_not_exchanged(sealed: bytes, tmp_path: Path) -> None:
    """Not even between two files of the same key, name, version and size."""
    encrypt_model(MODEL, tmp_path / "other", KEY, **IRIS)
    mine, my_body = header_of(sealed)
    theirs, their_body = header_of((tmp_path / "other").read_bytes())
    for content in (
        bytes(mine) + their_body,
        bytes(theirs) + my_body,
        bytes(replace(mine, wrapped=theirs.wrapped)) + my_body,
        bytes(mine) + my_body[:SEGMENT] + their_body[SEGMENT:],
        bytes(mine) + my_body[: 3 * SEGMENT] + their_body[3 * SEGMENT :],
    ):
        assert "altered" in refused(tmp_path, content)


@given(st.data())
def test_any_change_of_the_body_is_found(sealed: bytes, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Wherever it is, and whatever it is."""
    start = len(sealed) - len(header_of(sealed)[1])
    at = data.draw(st.integers(start, len(sealed) - 1))
    put = data.draw(st.binary(min_size=1, max_size=40))
    content = sealed[:at] + put + sealed[at + len(put) :]
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(content)
    if content == sealed:
        return
    with pytest.raises(ModelDecryptionError):
        read_encrypted_model(path, KEY, **IRIS)


@given(
    st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(lambda rest: b"mlguard encrypted file 1\n" + rest))
)
def test_no_file_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Any bytes, with or without the right beginning, are a file that is refused."""
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with pytest.raises(ModelDecryptionError):
        read_encrypted_model(path, KEY, **IRIS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no model that mlguard has encrypted"),
        (b"\x80\x04K\x01.", "no model that mlguard has encrypted"),
        (b"mlguard encrypted file 2\n", "a format that this version of mlguard does not know"),
        (b"mlguard encrypted file 1", "a format that this version of mlguard does not know"),
        (b"mlguard encrypted file 1\n", "ends within its header"),
        (b"mlguard encrypted file 1\n\xff\xff", "longer than any may be"),
        (b"mlguard encrypted file 1\n\x00\x01\xff\x00\x011\x00\x10" + b"k" * 16 + bytes(10), "no text"),
        (b"mlguard encrypted file 1\n\x00\x01a\x00\x011\x00\x01k" + bytes(10), "the id of a key is none"),
        (b"mlguard encrypted file 1\n\x00\x01a\x00\x011\x00\x10" + b"\n" + b"k" * 15 + bytes(10), r"'\nkkk"),
    ],
)
def test_each_fault_of_a_header_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    """An empty file, one of another kind, one of a later format, one that ends early; nothing in it forges a line."""
    text = refused(tmp_path, content)
    assert said in text
    assert text.isprintable()


# Failures ------------------------------------------------------------------------------------------------------------


class Failing:
    """A file that fails after so many calls, as a full disk or Ctrl-C would make it."""

    def __init__(self, file: Any, fault: BaseException, calls: int) -> None:
        self._file, self._fault, self._left = file, fault, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._fault

    def read(self, *size: int) -> Any:
        self._count()
        return self._file.read(*size)

    def write(self, data: bytes) -> Any:
        self._count()
        return self._file.write(data)


FAULTS = [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError(), SystemExit(1)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("opener", ["replacing", "open_regular"])
@pytest.mark.parametrize("work", [encrypt_model, decrypt_model], ids=["encrypt", "decrypt"])
def test_a_failure_half_way_is_told_as_what_it_is(  # noqa: PLR0917
    work: Any, opener: str, fault: BaseException, sealed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, an unreadable one and Ctrl-C look like no attack, and leave what was there."""
    real = getattr(encryption, opener)

    @contextlib.contextmanager
    def failing(path: Path, **options: Any) -> Iterator[Any]:
        with real(path, **options) as file:
            yield Failing(file, fault, calls=2 if work is encrypt_model or opener == "replacing" else 12)

    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(MODEL if work is encrypt_model else sealed)
    target.write_bytes(b"before")
    monkeypatch.setattr(encryption, opener, failing)
    with pytest.raises(type(fault)) as raised:
        work(source, target, KEY, **IRIS)
    assert raised.value is fault
    assert target.read_bytes() == b"before"
    assert names(tmp_path) == ["source", "target"]


def test_an_interrupt_within_tink_is_one(sealed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while Tink's own code runs, which would turn it into an error of its own, is Ctrl-C."""
    from tink.streaming_aead import _file_object_adapter

    (tmp_path / "sealed").write_bytes(sealed)

    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(_file_object_adapter.FileObjectAdapter, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_encrypted_model(tmp_path / "sealed", KEY, **IRIS)
    monkeypatch.setattr(_file_object_adapter.FileObjectAdapter, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        encrypt_model(MODEL, tmp_path / "other", KEY, **IRIS)
    assert names(tmp_path) == ["sealed"]


def test_half_a_model_never_gets_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When reading the model fails, what was written is not finished: it would look whole."""
    written = io.BytesIO()

    @contextlib.contextmanager
    def watched(path: Path, **_: Any) -> Iterator[Any]:
        yield written

    monkeypatch.setattr(encryption, "replacing", watched)
    monkeypatch.setattr(
        encryption,
        "open_regular",
        lambda path: contextlib.nullcontext(Failing(io.BytesIO(MODEL), OSError(5, "I/O"), 3)),
    )
    with pytest.raises(OSError, match="I/O"):
        encrypt_model(tmp_path / "source", tmp_path / "target", KEY, **IRIS)
    header, body = header_of(written.getvalue())
    assert len(body) > SEGMENT
    fitting = replace(header, length=len(body))
    data_key = header.unwrap(KEY)
    assert data_key is not None
    monkeypatch.undo()
    assert "what follows is not" in refused(tmp_path, bytes(fitting.wrapping(data_key, KEY)) + body)


KILLED = """
import os, signal, sys
from mlguard.artifacts import _tink, encryption
if sys.argv[1] == "named":
    del os.O_TMPFILE
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
blocks = 0
read = _tink.DecryptingReader.read
def read_half(self, size):
    global blocks
    blocks += 1
    if blocks == 3:
        print("half", flush=True)
        sys.stdin.read()
    return read(self, size)
_tink.DecryptingReader.read = read_half
encryption.decrypt_model("sealed", "target", sys.argv[2], name="iris", version=3)
"""


@pytest.mark.parametrize(("kind", "left"), [("nameless", 0), ("named", 1)])
def test_a_killed_process_leaves_no_plaintext_that_others_can_read(kind: str, left: int, tmp_path: Path) -> None:
    """Killed half way: on Linux nothing is left; elsewhere one file that only its owner can read, not the target."""
    key = secrets.token_urlsafe(32)
    encrypt_model(MODEL, tmp_path / "sealed", key, **IRIS)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, kind, key], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    rest = [path for path in tmp_path.iterdir() if path.name != "sealed"]
    assert len(rest) == left
    for path in rest:
        assert path.name != "target"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() in MODEL


def test_an_interrupted_process_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C half way, where files have names while they are written."""
    key = secrets.token_urlsafe(32)
    encrypt_model(MODEL, tmp_path / "sealed", key, **IRIS)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, "named", key],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGINT)
        _, error = child.communicate()
    assert error.rstrip().endswith(b"KeyboardInterrupt")
    assert names(tmp_path) == ["sealed"]


def test_a_lent_model_is_gone_after_the_block(sealed: bytes, tmp_path: Path) -> None:
    """However the block ends."""
    (tmp_path / "a.enc").write_bytes(sealed)
    with pytest.raises(ZeroDivisionError), decrypted_model(tmp_path / "a.enc", KEY, **IRIS, folder=tmp_path) as path:  # noqa: PT012
        assert path.read_bytes() == MODEL
        raise ZeroDivisionError
    assert names(tmp_path) == ["a.enc"]
    (tmp_path / ".enc").write_bytes(sealed)
    with decrypted_model(tmp_path / ".enc", KEY, **IRIS, folder=tmp_path) as path:
        assert path.name == "model"


@pytest.mark.parametrize("place", ["/dev/null", "folder", "link", "pipe"])
def test_only_files_are_replaced(place: str, sealed: bytes, tmp_path: Path) -> None:
    """A target that is a device, a directory, a link or a pipe stays what it is."""
    (tmp_path / "a.enc").write_bytes(sealed)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "pipe")
    before = names(tmp_path)
    for work in (
        lambda target: decrypt_model(tmp_path / "a.enc", target, KEY, **IRIS),
        lambda target: encrypt_model(MODEL, target, KEY, **IRIS),
        lambda target: rewrap_model(target, KEY),
    ):
        with pytest.raises(ConfigurationError, match="no regular file"):
            work(tmp_path / place)
    assert names(tmp_path) == before


@pytest.mark.parametrize("source", ["/dev/zero", "pipe"])
def test_a_source_without_an_end_is_refused(source: str, tmp_path: Path) -> None:
    """At once."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="no regular file"):
        encrypt_model(tmp_path / source, tmp_path / "target", KEY, **IRIS)
    with pytest.raises(ConfigurationError, match="no regular file"):
        read_encrypted_model(tmp_path / source, KEY, **IRIS)
    assert names(tmp_path) == ["pipe"]


def test_without_tink_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is written."""
    from mlguard.artifacts._tink import load_tink

    load_tink.cache_clear()
    monkeypatch.setitem(sys.modules, "tink", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlguard\[tink\]'"):
        encrypt_model(MODEL, tmp_path / "target", KEY, **IRIS)
    assert names(tmp_path) == []


def test_importing_mlguard_imports_no_tink() -> None:
    """Only who encrypts waits for it."""
    code = "import mlguard, mlguard.artifacts.encryption, sys; print('tink' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"False\n"


# Directories ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that is a directory."""
    folder = tmp_path / "model"
    (folder / "weights").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "weights" / "one").write_bytes(MODEL)
    return folder


def test_a_directory_is_one_encrypted_file(folder: Path, tmp_path: Path) -> None:
    """It comes back whole, with mode 0700, in both ways to read it."""
    encrypt_model(folder, tmp_path / "model.enc", KEY, **IRIS)
    decrypt_model(tmp_path / "model.enc", tmp_path / "copy", KEY, **IRIS)
    assert names(tmp_path) == ["copy", "model", "model.enc"]
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o700
    with decrypted_model(tmp_path / "model.enc", KEY, **IRIS) as path:
        assert path.name == "model"
        for copy in (path, tmp_path / "copy"):
            assert names(copy) == ["config.json", "weights"]
            assert (copy / "weights" / "one").read_bytes() == MODEL


def test_an_altered_directory_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """The last byte is wrong: none of the files that came before it stays."""
    encrypt_model(folder, tmp_path / "model.enc", KEY, **IRIS)
    content = (tmp_path / "model.enc").read_bytes()
    (tmp_path / "model.enc").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelDecryptionError, match="altered"):
        decrypt_model(tmp_path / "model.enc", tmp_path / "copy", KEY, **IRIS)
    with (
        pytest.raises(ModelDecryptionError, match="altered"),
        decrypted_model(tmp_path / "model.enc", KEY, **IRIS, folder=tmp_path),
    ):
        raise AssertionError("it was lent")
    assert names(tmp_path) == ["model", "model.enc"]


def test_a_directory_takes_no_other_ones_place(folder: Path, tmp_path: Path) -> None:
    """Neither that of a file nor that of a directory; and it is no bytes."""
    encrypt_model(folder, tmp_path / "model.enc", KEY, **IRIS)
    (tmp_path / "file").write_bytes(b"mine")
    for target in ("file", "model"):
        with pytest.raises(ConfigurationError, match="is there already"):
            decrypt_model(tmp_path / "model.enc", tmp_path / target, KEY, **IRIS)
    with pytest.raises(ConfigurationError, match="is a directory"):
        read_encrypted_model(tmp_path / "model.enc", KEY, **IRIS)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_directory_is_not_encrypted_into_itself(folder: Path) -> None:
    """It would hold its own old ciphertext the next time."""
    with pytest.raises(ConfigurationError, match="put it elsewhere"):
        encrypt_model(folder, folder / "weights" / "model.enc", KEY, **IRIS)
    assert names(folder / "weights") == ["one"]


# Rotation ------------------------------------------------------------------------------------------------------------


def test_a_file_is_put_under_another_key(sealed: bytes, tmp_path: Path) -> None:
    """The body stays as it is, the new key opens it, the old one does not; a second time there is nothing to do."""
    path = tmp_path / "iris.enc"
    path.write_bytes(sealed)
    path.chmod(0o640)
    assert rewrap_model(path, [OTHER_KEY, KEY]) is True
    assert header_of(path.read_bytes())[1] == header_of(sealed)[1]
    assert read_encrypted_model(path, OTHER_KEY, **IRIS) == MODEL
    assert OTHER_KEY.id in refused(tmp_path, path.read_bytes(), KEY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    before = path.stat()
    assert rewrap_model(path, [OTHER_KEY, KEY]) is False
    assert path.stat().st_ino == before.st_ino


def test_what_cannot_be_unwrapped_is_not_rewrapped(sealed: bytes, tmp_path: Path) -> None:
    """Another key, an altered header, a file that is cut: it stays as it is."""
    path = tmp_path / "iris.enc"
    altered = bytearray(sealed)
    altered[30] ^= 1
    for content, keys in ((sealed, [OTHER_KEY]), (bytes(altered), [OTHER_KEY, KEY]), (sealed[:-1], [OTHER_KEY, KEY])):
        path.write_bytes(content)
        with pytest.raises(ModelDecryptionError):
            rewrap_model(path, keys)
        assert path.read_bytes() == content
    assert names(tmp_path) == ["iris.enc"]


@pytest.mark.parametrize("how", ["replaced", "cut short"])
def test_a_rotation_undoes_nothing_that_happens_meanwhile(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer model that is put in the place of the one that is rewrapped stays, and half a file is not made whole."""
    path = tmp_path / "iris.enc"
    encrypt_model(MODEL, path, KEY, **IRIS)
    real = shutil.copyfileobj

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(shutil, "copyfileobj", real)
        if how == "replaced":
            real(*arguments)
            encrypt_model(b"newer", path, KEY, **IRIS)
        else:
            os.truncate(path, 500)
            real(*arguments)

    monkeypatch.setattr(shutil, "copyfileobj", late)
    with pytest.raises(ConfigurationError, match="try again"):
        rewrap_model(path, [OTHER_KEY, KEY])
    if how == "replaced":
        assert read_encrypted_model(path, KEY, **IRIS) == b"newer"
    assert names(tmp_path) == ["iris.enc"]


def test_readers_never_see_half_a_rotation(sealed: bytes, tmp_path: Path) -> None:
    """Four threads rewrap a file back and forth while it is read: every read gives the whole model."""
    path = tmp_path / "iris.enc"
    path.write_bytes(sealed)
    orders = [[KEY, OTHER_KEY], [OTHER_KEY, KEY]]
    done, faults = threading.Event(), []

    def rewrap(which: int) -> None:
        while not done.is_set():
            try:
                rewrap_model(path, orders[which % 2])
            except BaseException as fault:
                if "try again" not in str(fault):
                    faults.append(fault)
                    return

    threads = [threading.Thread(target=rewrap, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert read_encrypted_model(path, orders[0], **IRIS) == MODEL
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert names(tmp_path) == ["iris.enc"]


# What is told --------------------------------------------------------------------------------------------------------


def test_every_access_is_an_event(sealed: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Which model, under which key, and why one was refused; nowhere a key or a part of the model."""
    secret = secrets.token_urlsafe(32)
    own = ModelKey(secret)
    path = tmp_path / "iris.enc"
    with caplog.at_level(logging.INFO, logger="mlguard.audit"):
        encrypt_model(MODEL, path, secret, **IRIS)
        read_encrypted_model(path, secret, **IRIS)
        rewrap_model(path, [KEY, own])
        with pytest.raises(ModelDecryptionError):
            read_encrypted_model(path, secret, **IRIS)
        with pytest.raises(ModelDecryptionError):
            rewrap_model(path, secret)
    events = [(record.__dict__["event"], record.__dict__["facts"]) for record in caplog.records]
    iris = {"name": "iris", "version": "3"}
    reason = f"the file is encrypted under the key {KEY.id!r}, and the keys that are given are {own.id}"
    assert events == [
        ("model.encrypted", iris | {"key": own.id}),
        ("model.decrypted", iris | {"key": own.id}),
        ("model.rewrapped", iris | {"key": KEY.id, "previous": own.id}),
        ("model.refused", iris | {"reason": reason}),
        ("model.refused", {"file": "iris.enc", "reason": reason}),
    ]
    assert secret not in caplog.text


def test_a_model_that_was_not_wholly_decrypted_is_no_event_of_success(
    sealed: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last segment is wrong: one event, a refusal."""
    with caplog.at_level(logging.INFO, logger="mlguard.audit"):
        (tmp_path / "a").write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
        with pytest.raises(ModelDecryptionError):
            decrypt_model(tmp_path / "a", tmp_path / "b", KEY, **IRIS)
    assert [record.__dict__["event"] for record in caplog.records] == ["model.refused"]


def test_no_error_quotes_a_key_or_the_model(sealed: bytes, tmp_path: Path) -> None:
    """Neither in the text nor in what an error holds or was caused by."""
    import traceback

    secret = secrets.token_urlsafe(32)
    path = tmp_path / "a"
    encrypt_model(MODEL, path, secret, **IRIS)
    right = path.read_bytes()
    flipped = [right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :] for at in (50, len(right) - 1)]
    for content in (right[:-1], *flipped, b""):
        path.write_bytes(content)
        with pytest.raises(ModelDecryptionError) as refusal:
            read_encrypted_model(path, secret, **IRIS)
        assert secret not in "".join(traceback.format_exception(refusal.value))
        assert refusal.value.__cause__ is None


# Memory --------------------------------------------------------------------------------------------------------------

PEAK = """
import json, re, sys
from pathlib import Path
from mlguard.artifacts.encryption import decrypt_model, encrypt_model
# In KiB, of this process alone: getrusage would begin with what its parent has taken.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
key = sys.argv[1]
encrypt_model(b"warm", "warm", key, name="m", version=1)
before = peak()
encrypt_model("plain", "sealed", key, name="m", version=1)
encrypted = peak() - before
decrypt_model("sealed", "copy", key, name="m", version=1)
print(json.dumps([encrypted, peak() - before]))
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A model of 128 MiB takes less than 32 more, either way."""
    with (tmp_path / "plain").open("wb") as file:
        file.truncate(128 * SEGMENT)
    key = secrets.token_urlsafe(32)
    grown = json.loads(subprocess.check_output([sys.executable, "-c", PEAK, key], cwd=tmp_path))
    assert max(grown) < 32 * 1024
