"""The fuzzer's own inputs: what it starts from is read as it must be, so that what it finds is news."""

from bench.fuzz import seeds, target


def test_the_seeds_are_read() -> None:
    """Each kind of body, whole and cut short."""
    try_one = target()
    for seed in seeds():
        try_one(seed)
        try_one(seed[: len(seed) // 2])
