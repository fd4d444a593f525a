"""All attacks, a process for each core and a job for each seed."""

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from time import process_time
from types import ModuleType

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from bench.attacks import (
    attributes,
    copying,
    detection,
    evasion,
    membership,
    poisoning,
    solving,
    usefulness,
    watermarks,
)
from bench.attacks.results import Columns, Measures, summarise

ATTACKS: dict[str, ModuleType] = {
    "copying": copying,
    "membership": membership,
    "evasion": evasion,
    "solving": solving,
    "attributes": attributes,
    "usefulness": usefulness,
    "watermark": watermarks,
    "detection": detection,
    "poisoning": poisoning,
}
NAMES = (*ATTACKS, "cost")

_SEEDS = 5

Table = tuple[str, Columns, list[list[str]]]  # with its name


def run(names: Sequence[str], *, quick: bool) -> Iterator[Table]:
    """The tables of these attacks, in the order of ``NAMES``, each when it is there."""
    attacks = [name for name in NAMES if name in names and name in ATTACKS]
    jobs = [(name, seed) for name in attacks for seed in range(1 if quick else _SEEDS)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=prepare) as pool:
        started = [pool.submit(_run, *job, quick=quick) for job in jobs]
        for attack in attacks:
            runs, spent = zip(
                *(one.result() for (name, _), one in zip(jobs, started, strict=True) if name == attack), strict=True
            )
            print(f"\n{attack}: {sum(spent):.0f} s of one core", flush=True)
            for title, columns in ATTACKS[attack].TABLES.items():
                yield title, columns, summarise(columns, [run[title] for run in runs])
    if "cost" in names:  # when nothing else runs
        prepare()
        yield "cost", usefulness.COST, usefulness.cost(quick=quick)


def _run(name: str, seed: int, *, quick: bool) -> tuple[dict[str, Measures], float]:
    start = process_time()
    return ATTACKS[name].run(seed, quick=quick), process_time() - start


def prepare() -> None:
    """One thread a process: small matrices are quicker that way, and sums come out the same each time."""
    threadpool_limits(1)
    logging.getLogger("mlguard").setLevel(logging.CRITICAL)  # refusals are part of it
