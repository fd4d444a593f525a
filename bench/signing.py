"""What signing and verifying a model cost beside SHA-256 alone, over the same files, in the page cache."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from bench.report import Line, Table
from bench.timing import take_turns
from mlguard import sign_model, verify_model

_TARGET = 1.2
_MB = 1 << 20
_KEY = ec.generate_private_key(ec.SECP256R1())

_MEASURE_MEMORY = """
import re, sys
from cryptography.hazmat.primitives.asymmetric import ec
from mlguard import sign_model, verify_model
key = ec.generate_private_key(ec.SECP256R1())
peak = lambda: int(re.search("VmHWM:\\s*([0-9]+)", open("/proc/self/status").read())[1])
before = peak()
sign_model(sys.argv[1], key)
verify_model(sys.argv[1], key.public_key())
print((peak() - before) / 1024)
"""


async def measure(*, short: bool) -> Table:
    """One large file, several, and many small ones."""
    scale, few = (16, 100) if short else (1, 10_000)
    models = {
        f"1 file of {1024 // scale} MB": {"weights": 1024 * _MB // scale},
        f"4 files of {256 // scale} MB": {f"shard{number}": 256 * _MB // scale for number in range(4)},
        f"{few} files of 4 KB": {f"{number // 100}/{number}": 4096 for number in range(few)},
    }
    lines, notes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, (work, sizes) in enumerate(models.items()):
            root = Path(folder) / f"model{number}"
            _make(root, sizes)
            lines += [await _timed(f"{verb} {work}", root, call, short=short) for verb, call in _CALLS.items()]
            if len(sizes) <= 4:
                notes.append(
                    f"Signing and verifying {work} in a new process raises its peak by {_memory(root):.1f} MiB."
                )
    return Table("Models, signed and verified, beside SHA-256", lines, notes)


def _verify(root: Path) -> None:
    verify_model(root, _KEY.public_key())


def _sign(root: Path) -> None:
    sign_model(root, _KEY)


_CALLS = {"sign": _sign, "verify": _verify}


async def _timed(work: str, root: Path, call: Callable[[Path], None], *, short: bool) -> Line:
    contenders = {"bare": _called(_hash, root), "guarded": _called(call, root)}
    timing = await take_turns(contenders, rounds=2 if short else 9, calls=1)
    return Line(work, timing, _TARGET)


def _called(call: Callable[[Path], object], root: Path) -> Callable[[], Awaitable[object]]:
    async def called() -> object:
        return call(root)

    return called


def _hash(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            if name != "model.sig":
                with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123  # no slower than it has to be
                    hashlib.file_digest(file, "sha256")


def _make(root: Path, sizes: dict[str, int]) -> None:
    noise = os.urandom(_MB)
    for name, size in sizes.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size, _MB):
                file.write(noise[: min(_MB, size - start)])


def _memory(root: Path) -> float:
    command = [sys.executable, "-c", _MEASURE_MEMORY, str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # the one above
    return float(done.stdout)
