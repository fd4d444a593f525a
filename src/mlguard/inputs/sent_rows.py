"""What a body holds, found but not yet judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlguard.errors import InvalidInputError
from mlguard.inputs.broken_rules import broken
from mlguard.inputs.row_rules import RowRules, Rows

#: An array in the dtype in which the numbers came, or lists of cells.
Unjudged: TypeAlias = NDArray[Any] | Sequence[Any]


@dataclass(frozen=True, slots=True)
class InferenceCall:
    """What an Open Inference request says beside its tensors, for whoever answers it.

    Attributes:
        id: The request's own id, which the answer has to repeat. Empty: it has none.
    """

    id: str = ""


class SentRows(NamedTuple):
    """Rows as a reader has found them, the columns in the order of the service.

    Attributes:
        rows: Shape ``(rows, columns)`` as an array, else nested as the rules have it.
        column_sent: From row and column to the place that the caller gave the value in the row, where columns were
            matched by name: a refusal counts in what was sent.
        call: What else an Open Inference request says.
        labels: The index of the class of each label that came beside the rows, shape ``(labels,)``.
    """

    rows: Unjudged
    column_sent: Callable[[int, int], int] | None = None
    call: InferenceCall | None = None
    labels: NDArray[np.intp] | None = None

    def judged(self, rules: RowRules) -> Rows:
        """The array for the model.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        judge = rules.judge if isinstance(self.rows, np.ndarray) else rules.matrix
        if self.column_sent is None:
            return judge(self.rows)  # type: ignore[arg-type]  # each takes its kind
        try:
            return judge(self.rows)  # type: ignore[arg-type]  # as above
        except InvalidInputError as refused:
            refusal = _as_sent(refused, self.column_sent)
        raise refusal


def _as_sent(refusal: InvalidInputError, column_sent: Callable[[int, int], int]) -> InvalidInputError:
    rule, row, column = (refusal.members.get(member) for member in ("broken", "row", "column"))
    return broken(str(rule), row, None if row is None or column is None else column_sent(row, column))
