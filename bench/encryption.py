"""What it costs to encrypt a model file, in time and in memory, beside Tink alone and the usual snippet with Fernet."""

import asyncio
import filecmp
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage  # type: ignore[import-untyped]  # it has no types
import tink
from tink import streaming_aead

from bench.report import Line, Table, spell_seconds
from bench.timing import Call, take_turns
from mlguard.artifacts.encryption import decrypt_model, encrypt_model, rewrap_model

_BLOCK = 1024 * 1024  # bytes
_TARGET = round(1 / 0.85, 3)  # of Tink's own time
_MOST_MEMORY = 64 * _BLOCK
_MEMORY = Path("/dev/shm")  # noqa: S108  # a directory of its own is made there

#: A program that prints by how many bytes its peak of memory grows, and how high it is.
_PEAK = """
import re, sys
from pathlib import Path
def peak():  # of this program alone: getrusage would begin with that of the parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
source, target, key = sys.argv[1:]
{ready}
before = peak()
{work}
print(peak() - before, peak())
"""
_ENCRYPT = (
    "from mlguard.artifacts.encryption import encrypt_model",
    "encrypt_model(source, target, key, name='m', version=1)",
)
_DECRYPT = (
    "from mlguard.artifacts.encryption import decrypt_model",
    "decrypt_model(source, target, key, name='m', version=1)",
)
_FERNET = (
    "from cryptography.fernet import Fernet",
    "Path(target).write_bytes(Fernet(key + '=').encrypt(Path(source).read_bytes()))",
)
_FROM_FERNET = (
    "from mlguard.artifacts.fernet_files import read_fernet_model",
    "read_fernet_model(source, key + '=')",
)


async def measure(*, short: bool) -> Table:
    """Random bytes. Tink alone is its own loop over blocks of 1 MiB, with the result on the disk too."""
    size, fernet_size = (64 * _BLOCK, 16 * _BLOCK) if short else (2_000_000_000, 500_000_000)
    rounds = 1 if short else 5
    key = secrets.token_urlsafe(32)
    lines: list[Line] = []
    if _MEMORY.is_dir():  # noqa: ASYNC240  # where no disk has a say
        with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
            lines += await _beside_tink(Path(folder), size // 4, key, "in memory", rounds)
    with tempfile.TemporaryDirectory() as folder:
        plain, sealed, copy = (Path(folder, name) for name in ("plain", "sealed", "copy"))
        lines += await _beside_tink(Path(folder), size, key, "on the disk", rounds)
        contenders = {
            "copy": _timed(lambda: _copy(plain, copy)),
            "rewrap": _timed(lambda: rewrap_model(sealed, _other(key))),
        }
        timing = await take_turns(contenders, rounds=rounds, calls=1)
        rewrapped = f"{spell_seconds(timing.of('rewrap'))}, {timing.ratio('rewrap', 'copy'):.2f} times that of a copy"
        encrypt_model(plain, sealed, key, name="m", version=1)
        notes = [
            f"Time of rewrap_model, {size / 1e9:.3g} GB: {rewrapped}.",
            _memory(f"encrypt {size / 1e9:.3g} GB", _ENCRYPT, plain, key),
            _memory(f"decrypt {size / 1e9:.3g} GB", _DECRYPT, sealed, key),
        ]
        _fill(plain, fernet_size)
        notes.append(await _beside_age(plain, sealed, copy, fernet_size, rounds))
        usual = f"encrypt {fernet_size / 1e6:.0f} MB with the usual snippet of Fernet"
        notes.append(_memory(usual, _FERNET, plain, key))
        _move(plain.with_name("target"), copy)
        notes.append(_memory(f"read_fernet_model, {fernet_size / 1e6:.0f} MB", _FROM_FERNET, copy, key))
    return Table("Encrypted model files", lines, notes)


async def _beside_tink(folder: Path, size: int, key: str, where: str, rounds: int) -> list[Line]:
    """Encrypt and decrypt a file in a folder, and leave ``plain`` and ``sealed`` there."""
    plain, sealed, bare, copy = (folder / name for name in ("plain", "sealed", "bare", "copy"))
    _fill(plain, size)
    primitive = _primitive()
    works: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "encrypt": (
            lambda: _tink_encrypts(primitive, plain, bare),
            lambda: encrypt_model(plain, sealed, key, name="m", version=1),
        ),
        "decrypt": (
            lambda: _tink_decrypts(primitive, bare, copy),
            lambda: decrypt_model(sealed, copy, key, name="m", version=1),
        ),
    }
    lines = []
    for work, (alone, guarded) in works.items():
        contenders = {"bare": _timed(alone), "guarded": _timed(guarded)}
        timing = await take_turns(contenders, rounds=rounds, calls=1)
        lines.append(Line(f"{work} {size / 1e9:.3g} GB, {where}", timing, _TARGET))
    assert filecmp.cmp(plain, copy, shallow=False)
    return lines


async def _beside_age(plain: Path, sealed: Path, copy: Path, size: int, rounds: int) -> str:
    """Tink and age, which mlguard does not use: it has no associated data."""
    primitive, identity = _primitive(), pyrage.x25519.Identity.generate()
    by_age = sealed.with_name("age")
    works = {
        "encrypt": (
            lambda: _tink_encrypts(primitive, plain, sealed),
            lambda: pyrage.encrypt_file(str(plain), str(by_age), [identity.to_public()]),
        ),
        "decrypt": (
            lambda: _tink_decrypts(primitive, sealed, copy),
            lambda: pyrage.decrypt_file(str(by_age), str(copy), [identity]),
        ),
    }
    told = []
    for work, (own, other) in works.items():
        timing = await take_turns({"tink": _timed(own), "age": _timed(other)}, rounds=rounds, calls=1)
        told.append(f"{work} {size / 1e6 / timing.of('tink'):.0f} and {size / 1e6 / timing.of('age'):.0f} MB/s")
    by_age.unlink()
    return f"Tink and age, {size / 1e6:.0f} MB on the disk: {', '.join(told)}."


def _memory(work: str, program: tuple[str, str], source: Path, key: str) -> str:
    """What a process of its own takes for it. Only mlguard's own work has the target."""
    ready, call = program
    code = _PEAK.format(ready=ready, work=call)
    arguments = [sys.executable, "-c", code, str(source), str(source.with_name("target")), key]
    more, whole = map(int, subprocess.check_output(arguments).split())  # noqa: S603  # our own program
    target = f", target <= 64 MiB: {'yes' if more <= _MOST_MEMORY else 'NO'}" if program in {_ENCRYPT, _DECRYPT} else ""
    return (
        f"Memory to {work}: {more / _BLOCK:,.0f} MiB more{target}; {whole / _BLOCK:,.0f} MiB with Python and imports."
    )


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size // 1_000_000):
            file.write(os.urandom(1_000_000))
        file.write(os.urandom(size % 1_000_000))


def _move(source: Path, target: Path) -> None:
    source.replace(target)


def _other(key: str) -> list[str]:
    """Another key each time, with which a file can be read that is under this one or has been under an earlier one."""
    _KEYS.insert(0, secrets.token_urlsafe(32))
    return [*_KEYS[:8], key]


_KEYS: list[str] = []


def _timed(call: Callable[[], object]) -> Call:
    async def timed() -> None:
        await asyncio.sleep(0)
        call()

    return timed


def _primitive() -> Any:
    streaming_aead.register()
    template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
    return tink.new_keyset_handle(template).primitive(streaming_aead.StreamingAead)


def _tink_encrypts(primitive: Any, plain: Path, sealed: Path) -> None:
    with plain.open("rb") as source, primitive.new_encrypting_stream(sealed.open("wb"), b"m") as stream:
        while block := source.read(_BLOCK):
            stream.write(block)
    _sync(sealed)


def _tink_decrypts(primitive: Any, sealed: Path, plain: Path) -> None:
    with plain.open("wb") as target, primitive.new_decrypting_stream(sealed.open("rb"), b"m") as stream:
        while block := stream.read(_BLOCK):
            target.write(block)
    _sync(plain)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing, _BLOCK)
    _sync(target)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
