"""The model's input: numbers of the right shape and size, and nothing else."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from fastapi import Request
from numpy.typing import ArrayLike, DTypeLike

from mlguard._body_forms import BodyForm
from mlguard._guard import Control, Guard, RequestMemory
from mlguard._order import charge_refused_input, judge_all
from mlguard.errors import ConfigurationError, InvalidInputError
from mlguard.inputs.body_formats import BodyFormats, Reader
from mlguard.inputs.feature_files import read_rules, write_rules
from mlguard.inputs.learning import learn
from mlguard.inputs.model_shapes import read_model
from mlguard.inputs.row_rules import RowRules, Rows
from mlguard.inputs.row_settings import Categories, Column, Columns, OutOfRange, check_dtype
from mlguard.inputs.sent_rows import SentRows
from mlguard.inputs.squeezing import MedianSmoothing, Squeeze, squeezes


class Features(Guard):
    """Reads rows of numbers from a body into an array that the model can take at once.

    Guards against what JSON and other formats let through and a model does not survive: NaN, infinities, ``1e999``,
    booleans, numbers in strings, null, ragged and nested rows, empty or oversized batches, values that training never
    saw, duplicate names, columns in another order, files that say one thing of themselves and hold another. Numbers go
    straight into the array, so that a batch costs a fraction of what a pydantic model costs.

    It does not stop adversarial examples within the bounds.

    ::

        iris = Features(columns=4, low=0.0, high=10.0, max_rows=1_000)

        @app.post("/predict")
        def predict(x: Annotated[np.ndarray, Depends(iris)]): ...

    takes ``{"features": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]}`` or ``{"features": [5.1, 3.5, 1.4, 0.2]}``.

    Where columns have names, rows may be objects with one member for each column, in any order. ``formats`` turns on
    what clients of other servers send; the content type and the shape of the document say which one it is:

    ======================  =====================================================================================
    ``"json"``              ``application/json``, the field of our own, as above
    ``"open-inference"``    ``application/json``, version 2 of the protocol: one tensor of all columns with any
                            name, or one for each column. Data in JSON: the binary extension is refused
    ``"mlflow"``            ``application/json``: ``dataframe_split``, ``dataframe_records``, ``instances``,
                            ``inputs``. ``params`` are refused
    ``"npy"``               ``application/x-npy``: floating-point numbers and integers of any byte order. No
                            objects, so never a pickle
    ``"csv"``               ``text/csv`` in UTF-8 after RFC 4180, with a header row
    ======================  =====================================================================================

    Wherever names come with the columns, they are matched: in any order, each one once, and no others.

    A refusal never repeats a value, a feature's name or the field's name. It says in ``broken`` which rule, and in
    ``row`` and ``column``, counted from 0 as they were sent, where it is broken, as far as that is known:

    ==============  ==================================================================================
    ``json``        the body is empty, not UTF-8, begins with a byte order mark, or is not JSON
    ``trailing``    something follows the JSON value
    ``depth``       arrays or objects are nested too deeply to be read
    ``duplicate``   an object names a member twice
    ``object``      the body is not an object
    ``field``       an object lacks a member, has others than expected, or one of the wrong kind
    ``array``       the field, or a row, is not an array
    ``empty``       no rows, or a row without values
    ``rows``        more than ``max_rows`` rows
    ``columns``     a row is shorter or longer than ``columns``, or not of the ``shape``
    ``nested``      an array or object stands where a number is expected
    ``number``      a string, boolean or null stands where a number is expected
    ``finite``      NaN, an infinity, or a number that is infinite in a floating-point ``dtype``
    ``integer``     ``dtype`` is an integer, and a number is not whole, or may have been rounded
    ``category``    a value that ``categories`` does not list for its column
    ``range``       a number below ``low`` or above ``high``
    ``record``      a row is not an object, where others are
    ``names``       a column's name is missing, unknown or there twice, or names are not expected
    ``index``       an index that has not one entry for each row
    ``shape``       a stated shape is not that of rows, or not that of the data
    ``datatype``    a tensor or file of a datatype that is not read, or a number or text that it cannot hold
    ``binary``      data of Open Inference's binary extension
    ``npy``         the body is not a ``.npy`` file
    ``length``      a file's data is shorter or longer than its header says
    ``csv``         the body is not CSV, not UTF-8, or begins with a byte order mark
    ``header``      the first line of a table is made of numbers
    ==============  ==================================================================================

    The shape, and what is no number, are judged before the numbers. The first fault in reading order is the one that is
    told; where columns are matched by name, the first in the order of ``columns``. In a tensor, ``column`` counts the
    values of a row.

    How exact numbers are: each is read as the nearest double, as every JSON reader does, judged, and rounded once more
    for ``float32``. So 2**53 + 1 becomes 2**53; 1e-320 stays itself in float64 and becomes 0 in float32. For an integer
    dtype, whole numbers are judged and delivered to the last digit, and those that it cannot hold are out of range. 3.0
    and 3e0 are 3, and 3.5 is refused. A number with a point or an exponent must be below 2**53, from where on a reader
    may have rounded it.

    Args:
        columns: The number of columns, or their names. Names are kept in ``names`` and never sent: callers who match
            by name get them from you.
        shape: Instead of columns, the shape of one row, such as ``(28, 28)``. JSON is nested accordingly, and files
            and tensors have the shape ``(rows, *shape)``.
        low: The smallest value allowed, included: one number, or one per column, or an array of the shape.
        high: The largest value allowed, included: one number, or one per column, or an array of the shape.
        max_rows: The largest batch, in rows. How large a body may be, in bytes, is up to ``harden``.
        field: The only member of the body in our own JSON.
        dtype: ``numpy.float64``, ``numpy.float32``, or a signed or unsigned integer of 8 to 64 bits. Bounds are checked
            before a value is rounded to ``float32``.
        missing: Columns in which a value may be missing, by name or by index, or True for all: null becomes NaN there,
            and NaN passes in formats that have it, or whose clients write it (Open Inference, MLflow). Everywhere else
            both are refused. Not with an integer dtype.
        categories: What a categorical column takes, by name or by index, with no regard to bounds. Numbers stay as they
            are. Texts become their index in the order given, as scikit-learn's
            ``OrdinalEncoder(categories=[...])`` numbers them; they must agree in every code point, and the column takes
            nothing else. Not a set, which has no order.
        out_of_range: ``"reject"``, or ``"clip"`` to move finite numbers to the nearer bound. NaN and infinities are
            refused either way. Clipping hides that inputs drift away from what the model was trained on, and stops no
            attacker: a wild number is moved to the edge, where the model is least sure.
        squeeze: What is done to the array once it is judged: ``BitDepth``, ``MedianSmoothing``, or any function of it
            that returns one of the same shape and dtype. :meth:`save` does not write it.
        publish_bounds: Whether OpenAPI may tell bounds, where all columns share them, and give an example. It never
            tells a name or a text.
        formats: Names of the formats that are read.

    Attributes:
        columns: The number of columns, or of the values in a row.
        names: Their names, if they were given.
        shape: The shape of one row.

    Raises:
        ConfigurationError: Neither columns nor a shape, or both; a name that comes twice, a bound that is not finite or
            of the wrong length, ``low`` above ``high``, no rows, a column that there is not, an impossible field or
            dtype, a function that does not squeeze such an array; no format, one that there is not, or CSV for tensors.
    """

    control: ClassVar[Control] = Control.INPUT_VALIDATION
    statuses: tuple[int, ...] = (413, 415, 422)
    reads_body: ClassVar[bool] = True

    def __init__(
        self,
        *,
        columns: int | Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
        low: float | ArrayLike,
        high: float | ArrayLike,
        max_rows: int,
        field: str = "features",
        dtype: DTypeLike = np.float64,
        missing: Columns = (),
        categories: Categories | None = None,
        out_of_range: OutOfRange = "reject",
        squeeze: Sequence[Squeeze] = (),
        publish_bounds: bool = True,
        formats: Iterable[str] = ("json",),
    ) -> None:
        self._rules = RowRules(
            columns=columns,
            shape=shape,
            low=low,
            high=high,
            max_rows=max_rows,
            dtype=dtype,
            missing=missing,
            categories=categories,
            out_of_range=out_of_range,
            publish_bounds=publish_bounds,
        )
        self._formats = BodyFormats(formats, self._rules, field)
        self.body_form = BodyForm("rows", frozenset({field})) if self._formats.names == {"json"} else None
        several = min(2, self._rules.max_rows)  # one row alone would not show what drops others
        example = np.zeros((several, *self._rules.shape), self._rules.dtype)
        self._squeeze = squeezes(squeeze, example, where="Features")
        if any(isinstance(each, MedianSmoothing) and each.shape is None for each in self._squeeze):
            raise ConfigurationError(
                "Features(squeeze=...): give MedianSmoothing the shape=(height, width) of a row, or it takes a batch "
                "for one image"
            )
        self.columns = self._rules.columns
        self.names = self._rules.names
        self.shape = self._rules.shape

    @classmethod
    def from_model(
        cls, model: Any, *, low: float | ArrayLike, high: float | ArrayLike, max_rows: int, **settings: Any
    ) -> "Features":
        """The guard for a model that says itself how many columns it takes, and perhaps their names and dtype.

        Models do not say which numbers are usual: bounds are up to you, or to :meth:`from_data`.

        Args:
            model: A fitted estimator or pipeline of scikit-learn, or anything else with ``n_features_in_`` and perhaps
                ``feature_names_in_``; an ``onnx.ModelProto`` (``pip install 'mlguard[onnx]'``); or an
                ``onnxruntime.InferenceSession``. It is only looked at, never run. An ONNX model must take one input of
                shape ``(rows, columns)`` or ``(rows, *shape)``, with rows left free, or 1 if ``max_rows`` is 1. Its
                element type is the dtype.
            low: As for ``Features``.
            high: As for ``Features``.
            max_rows: As for ``Features``.
            **settings: Any other argument of ``Features`` but ``columns``.

        Returns:
            The guard.

        Raises:
            ConfigurationError: The model does not say it, or takes something else than rows of numbers.
        """
        found = read_model(model)
        if found.one_row and max_rows != 1:
            raise ConfigurationError("max_rows must be 1 for this model, or export it with a free first dimension")
        dtype = settings.pop("dtype", found.dtype or np.float64)
        if found.dtype and np.dtype(found.dtype) != check_dtype(dtype):
            raise ConfigurationError(f"dtype must be {found.dtype}, because the model takes no other")
        return cls(
            columns=found.columns, shape=found.shape, low=low, high=high, max_rows=max_rows, dtype=dtype, **settings
        )

    @classmethod
    def from_data(
        cls,
        data: Any,
        *,
        max_rows: int,
        margin: float = 1.0,
        quantiles: tuple[float, float] = (0.001, 0.999),
        low: Mapping[Any, float] | None = None,
        high: Mapping[Any, float] | None = None,
        missing: Columns = (),
        categories: Categories | Iterable[Column] | None = None,
        dtype: DTypeLike = np.float64,
        publish_bounds: bool = False,
        **settings: Any,
    ) -> "Features":
        """The guard with columns and bounds learnt from data, such as those that the model was trained on.

        A bound never tells a smallest or largest value. Of each column, the values at the two quantiles are taken, with
        at least 5 values beyond each. The bounds lie ``margin`` times their distance further out, and are rounded
        outwards to two digits of that distance. So no 5 values on either side, however extreme, change a bound. If both
        quantiles fall on one value, the sixth from each side are taken; if those are the same too, the distance is its
        size, but at least 1. What a bound tells is roughly how a column is spread. This is no differential privacy.

        Args:
            data: A data frame of pandas or polars, or an array or a list of rows of shape ``(rows, columns)``. Each
                column needs 100 values. Booleans count as 0 and 1.
            max_rows: The largest batch, in rows.
            margin: How far the bounds lie beyond the quantiles, in distances between the two.
            quantiles: The two quantiles, neither 0 nor 1.
            low: Lowest values that are known without the data, by column, such as ``{"age": 0}``. They stay as they
                are.
            high: Highest values that are known, by column.
            missing: Columns in which a value may be missing, as for ``Features``. Data that lack a value in any other
                column are refused.
            categories: Categorical columns, with what they take as for ``Features``; or only their names or indices, to
                allow what is in the data, sorted, as scikit-learn's ``OrdinalEncoder`` does by itself. Each category
                must then be that of at least 5 rows, and there may be 1 000.
            dtype: As for ``Features``. It does not follow from the data.
            publish_bounds: As for ``Features``.
            **settings: Any other argument of ``Features`` but ``columns``.

        Returns:
            The guard. It holds nothing of the data but bounds, names and categories.

        Raises:
            ConfigurationError: Too few values, one that is missing or infinite, a text that is no category, a category
                of too few rows, another type of data, a setting that cannot work.
        """
        learnt = learn(
            data,
            margin=margin,
            quantiles=quantiles,
            low=low,
            high=high,
            missing=missing,
            categories=categories,
            dtype=dtype,
        )
        return cls(**learnt, max_rows=max_rows, publish_bounds=publish_bounds, **settings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the guard's settings to a JSON file, in one step. Keep it where the model is, and as safe.

        Args:
            path: The file. One that is there is replaced, and keeps its mode.

        Raises:
            ConfigurationError: Bounds of each column, of so many columns that :meth:`load` would not read the file.
            OSError: It cannot be written. One that was there is as it was.
        """
        write_rules(path, self._rules, self._formats.field, self._formats.names)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, squeeze: Sequence[Squeeze] = ()) -> "Features":
        """The guard with the settings that :meth:`save` has written. Bounds are the same to the last bit.

        Nothing in the file is ever run. Who can write to it decides what the model is given.

        Args:
            path: The file.
            squeeze: As for ``Features``: functions are not in the file.

        Raises:
            ConfigurationError: There is no such file, or it holds anything else than settings that work.
        """
        settings = read_rules(path)
        try:
            return cls(**settings, squeeze=squeeze)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from None

    async def __call__(self, request: Request) -> Rows:
        """The rows in the request's body.

        Returns:
            A C-contiguous, writable array of shape ``(rows, columns)``, or ``(rows, *shape)``, in the dtype asked for,
            new for each request.

        Raises:
            MLGuardError: Another guard of the route refuses the request: all are judged first.
            UnsupportedMediaTypeError: The content type is none of those that are read (415).
            BodyTooLargeError: The body is larger than ``harden`` allows (413).
            InvalidInputError: A rule is broken (422). A budget whose cost are these rows is charged one.
        """
        memory = await judge_all(request)  # who may not call is not told which content type is read
        reader = self._formats.reader_for(request.scope["headers"])
        body = await request.body()
        return await memory.note_reading(self, self._read(request, memory, reader, body))

    async def _read(self, request: Request, memory: RequestMemory, reader: Reader, body: bytes) -> Rows:
        try:
            sent = reader.sent(body)
            memory.inference_call = sent.call
            return self.finished(sent)
        except InvalidInputError:
            await charge_refused_input(request, self)
            raise

    @property
    def rules(self) -> RowRules:
        """What the rows must be."""
        return self._rules

    @property
    def field(self) -> str:
        """The member of our own JSON that has them."""
        return self._formats.field

    def finished(self, sent: SentRows) -> Rows:
        """The array for the model, of what a reader has found.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        rows = sent.judged(self._rules)
        for squeeze in self._squeeze:
            rows = squeeze(rows)
        return rows

    def openapi_body(self) -> dict[str, Any]:
        """The OpenAPI request body: what is accepted, with examples. It tells the bounds, but no feature's name."""
        return {"required": True, "content": self._formats.openapi_content()}
