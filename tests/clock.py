"""Time that tests set."""


class Clock:
    """A clock that stands still until it is set.

    Args:
        now: What it says first.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now
