"""What it costs to encrypt a model file, in time and in memory, beside Tink alone and the usual snippet with Fernet."""

import secrets
import tempfile
from pathlib import Path

import tink
from tink import streaming_aead

from bench.report import Line, Table
from bench.timing import take_turns
from mlguard.artifacts.encryption import decrypt_model, encrypt_model

_BLOCK = 1024 * 1024  # bytes
_TARGET = 1 / 0.85  # of Tink's own time
_MOST_MEMORY = 64 * _BLOCK

#: Programs that print by how many bytes their peak of memory grows, and how high it is.
_PEAK = """
import resource, sys
from pathlib import Path
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
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
    """A file of 2 GB, on the disk when it is done; Tink alone leaves that to the system."""
    size, fernet_size = (64 * _BLOCK, 16 * _BLOCK) if short else (2_000_000_000, 500_000_000)
    key = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory() as folder:
        plain, sealed, copy = (Path(folder, name) for name in ("plain", "sealed", "copy"))
        _fill(plain, size)
        lines, notes = [], []
        for work, call, own in (
            ("encrypt", lambda: encrypt_model(plain, sealed, key, name="m", version=1), _tink_encrypts),
            ("decrypt", lambda: decrypt_model(sealed, copy, key, name="m", version=1), _tink_decrypts),
        ):
            contenders = {"bare": _call(lambda own=own: own(plain, Path(folder, "tink"), copy)), "guarded": _call(call)}  # type: ignore[misc]
            timing = await take_turns(contenders, rounds=1 if short else 5, calls=1)
            lines.append(Line(f"{work} {size / 1e9:g} GB", timing, _TARGET))
        assert _same(plain, copy)
        timing = await take_turns({"rewrap": _call(lambda: _rewrap(sealed, key))}, rounds=1 if short else 3, calls=1)
        notes.append(f"Rewrap {size / 1e9:g} GB: {timing.of('rewrap'):.2f} s, which is a copy.")
        encrypt_model(plain, sealed, key, name="m", version=1)
        for work, program, source in (("encrypt", _ENCRYPT, plain), ("decrypt", _DECRYPT, sealed)):
            more, whole = _peak(program, source, Path(folder, "peak"), key)
            met = "yes" if more <= _MOST_MEMORY else "NO"
            notes.append(
                f"Memory to {work} {size / 1e9:g} GB: {more / _BLOCK:.0f} MiB more (target <= 64: {met}), "
                f"{whole / _BLOCK:.0f} MiB with Python and all of mlguard."
            )
        _fill(plain, fernet_size)
        for work, program in (("Fernet as the usual snippet has it", _FERNET), ("read_fernet_model", _FROM_FERNET)):
            more, _ = _peak(program, plain, copy, key)
            notes.append(f"Memory of {work} for {fernet_size / 1e6:.0f} MB: {more / 1e9:.2f} GB more.")
            plain = copy
    return Table("Encrypted model files", lines, notes)


_PRIMITIVE = None


def _primitive() -> tuple[object, ...]:
    global _PRIMITIVE
    if _PRIMITIVE is None:
        streaming_aead.register()
        template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
        _PRIMITIVE = tink.new_keyset_handle(template).primitive(streaming_aead.StreamingAead)
    return _PRIMITIVE


def _tink_encrypts(plain: Path, sealed: Path, _: Path) -> None:
    with plain.open("rb") as source, sealed.open("wb") as target:
        with _primitive().new_encrypting_stream(target, b"m") as stream:
            while block := source.read(_BLOCK):
                stream.write(block)


def _tink_decrypts(_: Path, sealed: Path, copy: Path) -> None:
    with sealed.open("rb") as source, copy.open("wb") as target:
        with _primitive().new_decrypting_stream(source, b"m") as stream:
            while block := stream.read(_BLOCK):
                target.write(block)
