"""What was found in a file of pickles when it was read without running it."""

from dataclasses import dataclass, field

from mlguard.artifacts._pickle_steps import Steps, new_steps
from mlguard.artifacts._symbols import Name

_MOST_PROBLEMS = 20  # that are told


@dataclass(slots=True)
class PickleContents:
    """What is in a file of pickles.

    Attributes:
        names: The globals, in the order in which they are named, each as often as it is.
        problems: What no saved model does, or what is broken, for the operator.
        has_joblib_arrays: Whether bytes of arrays stand between the instructions, as joblib writes them.
        room: Bytes that may still be given to NumPy and scikit-learn, each of which may be a copy.
        is_whole: Whether everything was read, and all that is wrong is among the problems.
        steps: Where each call and each state was met, for the second reading.
    """

    names: list[Name] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    has_joblib_arrays: bool = False
    room: int = 0
    is_whole: bool = True
    steps: Steps = field(default_factory=new_steps)

    def add_problem(self, text: str) -> None:
        """Remember what is wrong, unless so much is that nobody reads on."""
        if text in self.problems:
            return
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(text)
        else:
            self.is_whole = False
