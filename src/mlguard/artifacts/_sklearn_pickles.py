"""What scikit-learn may be called with while a pickle is loaded.

``Tree.__setstate__`` looks at shapes and dtypes, and copies the rest. ``predict`` then follows the numbers of children
and features without looking: with others it reads what is beside the tree in memory, follows a circle for ever, or, in
``decision_path``, writes beyond its array. So the nodes have to be a tree here already.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlguard.artifacts._encoder_pickles import OneHotEncoder
from mlguard.artifacts._pickle_rules import Rule, Value, attributes, is_count, whole_number
from mlguard.artifacts._symbols import Array, Dtype, Made, MisuseError, Name

_LEAF = _NOBODY = -1
_MOST_FACTORS = 64
_WRONG_COLUMNS = "its degree and its columns do not agree"
_TREE: Name = ("sklearn.tree._tree", "Tree")
_STATE = {"max_depth", "node_count", "nodes", "values"}
_FIELDS = ("left_child", "right_child", "feature")  # with which a node begins, in the order of its C structure


class _Tree(Value):
    """``Tree(n_features, n_classes, n_outputs)``, then its nodes."""

    must_be_built = True

    def call(self, args: tuple[Any, ...], /) -> Made:
        """Make it."""
        if len(args) != 3 or not is_count(args[0], least=1) or not is_count(args[2], least=1):
            raise MisuseError("called as scikit-learn never calls it")
        classes = _integers(args[1])
        if classes.shape != (args[2],) or classes.min() < 1:
            raise MisuseError("another number of outputs than of classes")
        return Made(self.name, args)

    def build(self, made: Made, state: Any, /) -> None:
        """Give it its nodes."""
        members = attributes(state)
        nodes = members.get("nodes")
        if set(members) != _STATE or not isinstance(nodes, Array) or not isinstance(members["values"], Array):
            raise MisuseError("a state that scikit-learn never writes")
        (count,) = nodes.shape if len(nodes.shape) == 1 else (0,)
        if not is_count(members["node_count"], least=1) or members["node_count"] != count:
            raise MisuseError("another number of nodes than it says")
        if not is_count(members["max_depth"]):
            raise MisuseError("a state that scikit-learn never writes")
        # Scikit-learn compares the fields by name, and NumPy then takes them over in their order.
        if nodes.dtype is None or nodes.dtype.names[: len(_FIELDS)] != _FIELDS:
            raise MisuseError("a state that scikit-learn never writes")
        left, right, feature = (_field(nodes, nodes.dtype, name) for name in _FIELDS)
        _check_nodes(left, right, feature, made.args[0], members["max_depth"])


class _DecisionTree(Rule):
    """An estimator with one tree, which believes its own ``n_features_in_``."""

    def build(self, _made: Made, state: Any, /) -> None:
        """Give it its attributes."""
        members = attributes(state)
        tree = members.get("tree_")
        if tree is None:
            return
        if not isinstance(tree, Made) or tree.name != _TREE or not tree.built:
            raise MisuseError("its tree is none")
        if not is_count(members.get("n_features_in_")) or members["n_features_in_"] != tree.args[0]:
            raise MisuseError("its tree is of another number of features than it says")


class _Loss(Value):
    """A loss function, with its numbers: ``Hinge(1.0)``."""

    def call(self, args: tuple[Any, ...], /) -> Made:
        """Make it."""
        if len(args) > 1 or not all(type(arg) in (int, float) for arg in args):
            raise MisuseError("called as scikit-learn never calls it")
        return Made(self.name, args)


class _FunctionTransformer(Rule):
    """A transformer without a function, as a column transformer has for ``"passthrough"``."""

    def build(self, _made: Made, state: Any, /) -> None:
        """Give it its attributes."""
        members = attributes(state)
        if members.get("func") is not None or members.get("inverse_func") is not None:
            raise MisuseError("it has a function, which it would call with arguments from the file")


class _Slice(Value):
    """``slice(start, stop, step)`` of columns."""

    def call(self, args: tuple[Any, ...], /) -> Made:
        """Make it."""
        if len(args) != 3 or not all(arg is None or type(arg) in (int, str) for arg in args):
            raise MisuseError("it slices something other than columns")
        return Made(self.name, args)


class _PolynomialFeatures(Rule):
    """A transformer, which makes room for as many columns as it says and fills as many as there are.

    In others the answer would have what was in memory before.
    """

    def build(self, _made: Made, state: Any, /) -> None:
        """Give it its attributes."""
        members = attributes(state)
        if "_n_out_full" not in members:
            return  # nobody has fitted it
        least, most, features = (
            whole_number(members.get(name)) for name in ("_min_degree", "_max_degree", "n_features_in_")
        )
        interacts, bias = members.get("interaction_only"), members.get("include_bias")
        if type(interacts) is not bool or type(bias) is not bool:
            raise MisuseError(_WRONG_COLUMNS)
        for name, first in (("_n_out_full", 0), ("n_output_features_", least)):
            columns = _count_terms(features, first, most, interacts=interacts) + bias
            if whole_number(members.get(name)) != columns:
                raise MisuseError(_WRONG_COLUMNS)


def _count_terms(features: int, least: int, most: int, *, interacts: bool) -> int:
    """How many products of features there are, of at least and at most so many factors, without the empty one.

    Raises:
        MisuseError: None that scikit-learn counts, or more than memory can hold.
    """
    if least > most or min(features, most) > _MOST_FACTORS:  # of which counting would take long
        raise MisuseError(_WRONG_COLUMNS)
    if interacts:
        return sum(math.comb(features, factors) for factors in range(max(1, least), min(most, features) + 1))
    below = max(least - 1, 0)
    return math.comb(features + most, most) - math.comb(features + below, below)


def _check_nodes(left: NDArray[Any], right: NDArray[Any], feature: NDArray[Any], features: int, max_depth: int) -> None:
    """Whether the nodes are one tree, each behind its parent, no deeper and of no more features than it says."""
    count = len(left)
    (inner,) = np.nonzero(left != _LEAF)
    left, right, feature = left[inner], right[inner], feature[inner]
    if 2 * len(inner) + 1 != count or np.count_nonzero(right == _LEAF):
        raise MisuseError("its nodes are no tree")
    if not len(inner):
        return
    if (left <= inner).any() or (right <= inner).any() or max(left.max(), right.max()) >= count:
        raise MisuseError("its nodes are no tree")
    if feature.min() < 0 or feature.max() >= features:
        raise MisuseError("a node of a feature that there is not")
    parent = np.full(count, _NOBODY)
    parent[left] = inner
    parent[right] = inner
    if np.count_nonzero(parent == _NOBODY) != 1:  # as many children as nodes, so one has two parents
        raise MisuseError("its nodes are no tree")
    parent[0] = 0
    if max_depth < len(inner):  # no tree is deeper than that
        _check_depth(parent, max_depth)


def _check_depth(parent: NDArray[np.intp], max_depth: int) -> None:
    """Whether every node reaches the root in as many steps, by squaring."""
    reached = parent
    for bit in bin(max_depth)[3:] if max_depth else "":
        reached = reached.take(reached)
        if bit == "1":
            reached = parent.take(reached)
    if not max_depth or reached.any():
        raise MisuseError("its nodes are deeper than it says")


def _field(nodes: Array, row: Dtype, name: str) -> NDArray[np.int64]:
    """A field of integers in an array that the file holds."""
    dtype, offset = row.fields[name]
    strides = (row.itemsize,)
    return np.ndarray(nodes.shape, dtype.integers, nodes.values, offset, strides).astype(np.int64)


def _integers(array: Any) -> NDArray[Any]:
    """An array of integers that the file holds."""
    if not isinstance(array, Array) or array.dtype is None or len(array.shape) != 1 or not array.shape[0]:
        raise MisuseError("something other than an array of integers")
    return np.frombuffer(array.values, array.dtype.integers)


_KINDS: dict[Name, type[Rule]] = {
    ("builtins", "slice"): _Slice,
    ("sklearn._loss._loss", "CyHalfBinomialLoss"): _Loss,
    ("sklearn._loss._loss", "CyHalfSquaredError"): _Loss,
    ("sklearn._loss._loss", "CyHuberLoss"): _Loss,
    ("sklearn.linear_model._sgd_fast", "EpsilonInsensitive"): _Loss,
    ("sklearn.linear_model._sgd_fast", "Hinge"): _Loss,
    ("sklearn.linear_model._sgd_fast", "ModifiedHuber"): _Loss,
    ("sklearn.linear_model._sgd_fast", "SquaredEpsilonInsensitive"): _Loss,
    ("sklearn.linear_model._sgd_fast", "SquaredHinge"): _Loss,
    ("sklearn.preprocessing._encoders", "OneHotEncoder"): OneHotEncoder,
    ("sklearn.preprocessing._function_transformer", "FunctionTransformer"): _FunctionTransformer,
    ("sklearn.preprocessing._polynomial", "PolynomialFeatures"): _PolynomialFeatures,
    _TREE: _Tree,
    ("sklearn.tree._classes", "DecisionTreeClassifier"): _DecisionTree,
    ("sklearn.tree._classes", "DecisionTreeRegressor"): _DecisionTree,
    ("sklearn.tree._classes", "ExtraTreeClassifier"): _DecisionTree,
    ("sklearn.tree._classes", "ExtraTreeRegressor"): _DecisionTree,
}
SKLEARN_RULES = {name: kind(name) for name, kind in _KINDS.items()}
