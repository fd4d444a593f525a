"""The rules of ``Features`` as pydantic types, for apps that keep their models."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mlguard.errors import InvalidInputError
from mlguard.inputs.row_rules import RowRules, Rows
from mlguard.inputs.row_settings import Categories, Columns, OutOfRange

FiniteNumber = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A JSON number that is finite: no NaN, no infinity, no ``1e999``, no boolean and no number in a string.

Bounds are added as usual: ``Annotated[FiniteNumber, Field(ge=0, le=10)]``.
"""

#: The type of the one pydantic error that these types raise.
INVALID_FEATURES: Final = "invalid_features"


class _FeatureArray(ABC):
    """What vector and matrix share: a pydantic validator, serializer and JSON schema made of the rules."""

    def __init__(self, rules: RowRules) -> None:
        self._rules = rules

    @abstractmethod
    def _array(self, value: object) -> Rows:
        """The value as an array, or an ``InvalidInputError``."""

    @abstractmethod
    def _schema(self) -> dict[str, Any]:
        """The JSON schema of what is accepted."""

    def _validate(self, value: object) -> Rows:
        if isinstance(value, np.ndarray):  # from Python code, or a model that is validated again
            value = value.tolist()
        try:
            return self._array(value)
        except InvalidInputError as refusal:
            error = PydanticCustomError(INVALID_FEATURES, "{detail}", {"detail": refusal.detail, **refusal.members})
        raise error

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate lists of numbers. In JSON the array is a list again."""
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(np.ndarray.tolist, when_used="json"),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The shape and, where they are the same for every column, the bounds."""
        return self._schema()


class FeatureVector(_FeatureArray):
    """One row of numbers in a pydantic model, as an array of shape ``(columns,)``.

    Guards against the same numbers as :class:`~mlguard.Features`, by the same rules. It goes into the annotation, so
    that type checkers see an array::

        Row = Annotated[NDArray[np.float64], FeatureVector(columns=4, low=0.0, high=10.0)]

        class Iris(BaseModel):
            features: Row

    An error has the type ``invalid_features``, and in its context ``broken`` with the name of the rule as in
    :class:`~mlguard.Features`, ``row`` (0) and ``column``. Its message repeats no value. pydantic itself adds the
    ``input``, which FastAPI sends back, and fails on if it is NaN: ``harden`` takes it out.

    FastAPI has parsed the body by then. Duplicate names and unknown members are up to it and to the model
    (``extra="forbid"``), and a batch takes several times as long as with :class:`~mlguard.Features`.

    Args:
        columns: The number of columns, or their names.
        low: The smallest value allowed, included: one number, or one per column.
        high: The largest value allowed, included: one number, or one per column.
        dtype: As for :class:`~mlguard.Features`.
        missing: As for :class:`~mlguard.Features`. In Python, NaN is a missing value too.
        categories: As for :class:`~mlguard.Features`. The model holds the index of a text, and so does its JSON, which
            is not taken back.
        out_of_range: As for :class:`~mlguard.Features`.
        publish_bounds: Whether the JSON schema may tell bounds, where all columns share them.

    Raises:
        ConfigurationError: A setting that cannot work, as in :class:`~mlguard.Features`.
    """

    def __init__(
        self,
        *,
        columns: int | Sequence[str],
        low: float | ArrayLike,
        high: float | ArrayLike,
        dtype: DTypeLike = np.float64,
        missing: Columns = (),
        categories: Categories | None = None,
        out_of_range: OutOfRange = "reject",
        publish_bounds: bool = True,
    ) -> None:
        super().__init__(
            RowRules(
                columns=columns,
                low=low,
                high=high,
                max_rows=1,
                dtype=dtype,
                missing=missing,
                categories=categories,
                out_of_range=out_of_range,
                publish_bounds=publish_bounds,
            )
        )

    def _array(self, value: object) -> Rows:
        row: Rows = self._rules.matrix([value])[0]
        return row

    def _schema(self) -> dict[str, Any]:
        return self._rules.row_schema()


class FeatureMatrix(_FeatureArray):
    """Rows of numbers in a pydantic model, as an array of shape ``(rows, columns)``.

    As :class:`FeatureVector`, for a batch::

        Batch = Annotated[NDArray[np.float64], FeatureMatrix(columns=4, low=0.0, high=10.0, max_rows=1_000)]

    Args:
        columns: The number of columns, or their names.
        low: The smallest value allowed, included: one number, or one per column.
        high: The largest value allowed, included: one number, or one per column.
        max_rows: The largest batch, in rows.
        dtype: As for :class:`~mlguard.Features`.
        missing: As for :class:`~mlguard.Features`. In Python, NaN is a missing value too.
        categories: As for :class:`~mlguard.Features`. The model holds the index of a text, and so does its JSON, which
            is not taken back.
        out_of_range: As for :class:`~mlguard.Features`.
        publish_bounds: Whether the JSON schema may tell bounds, where all columns share them.

    Raises:
        ConfigurationError: A setting that cannot work, as in :class:`~mlguard.Features`.
    """

    def __init__(
        self,
        *,
        columns: int | Sequence[str],
        low: float | ArrayLike,
        high: float | ArrayLike,
        max_rows: int,
        dtype: DTypeLike = np.float64,
        missing: Columns = (),
        categories: Categories | None = None,
        out_of_range: OutOfRange = "reject",
        publish_bounds: bool = True,
    ) -> None:
        super().__init__(
            RowRules(
                columns=columns,
                low=low,
                high=high,
                max_rows=max_rows,
                dtype=dtype,
                missing=missing,
                categories=categories,
                out_of_range=out_of_range,
                publish_bounds=publish_bounds,
            )
        )

    def _array(self, value: object) -> Rows:
        return self._rules.matrix(value)

    def _schema(self) -> dict[str, Any]:
        return self._rules.rows_schema()
