"""Which classes and functions a pickle may name: ready sets of exact (module, name) pairs.

Each set holds what the estimators in its description need, saved by joblib or by pickle in any protocol, and nothing
more; a test fits and saves them all. Sets are joined by ``|``. None has an estimator whose native code believes what
its file says without checks that mlguard can make up for: nearest neighbours, SVC and SVR, GradientBoosting.
"""

from collections.abc import Iterable

from mlguard.artifacts._symbols import Name, spell
from mlguard.errors import ConfigurationError

#: Arrays and scalars of NumPy, by any protocol of pickle and by joblib. Every other set has it.
NUMPY_ARRAYS: frozenset[Name] = frozenset(
    {
        ("_codecs", "encode"),
        ("builtins", "bytes"),
        ("builtins", "object"),
        ("copyreg", "_reconstructor"),
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
    }
)


def _estimators(**modules: str) -> frozenset[Name]:
    return NUMPY_ARRAYS | {
        ("sklearn." + module.replace("__", "."), name) for module, names in modules.items() for name in names.split()
    }


#: Decision trees, random forests, extremely randomised trees and isolation forests.
SKLEARN_FORESTS = _estimators(
    ensemble___forest="RandomForestClassifier RandomForestRegressor ExtraTreesClassifier ExtraTreesRegressor",
    ensemble___iforest="IsolationForest",
    tree___classes="DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier ExtraTreeRegressor",
    tree___tree="Tree",
)

#: Linear and logistic regression, ridge, lasso, elastic net, and linear models by gradient descent.
SKLEARN_LINEAR = _estimators(
    linear_model___base="LinearRegression",
    linear_model___logistic="LogisticRegression",
    linear_model___ridge="Ridge RidgeClassifier",
    linear_model___coordinate_descent="Lasso ElasticNet",
    linear_model___stochastic_gradient="SGDClassifier SGDRegressor",
    linear_model___sgd_fast="EpsilonInsensitive Hinge ModifiedHuber SquaredEpsilonInsensitive SquaredHinge",
    _loss___loss="CyHalfBinomialLoss CyHalfSquaredError CyHuberLoss",
    preprocessing___label="LabelBinarizer",
    svm___classes="LinearSVC LinearSVR",
)

#: Pipelines, column transformers, scalers, encoders, imputation, polynomials and PCA. No function of yours.
SKLEARN_PREPROCESSING = _estimators(
    compose___column_transformer="ColumnTransformer",
    decomposition___pca="PCA",
    impute___base="SimpleImputer",
    pipeline="Pipeline FeatureUnion",
    preprocessing___data="StandardScaler MinMaxScaler MaxAbsScaler RobustScaler Normalizer",
    preprocessing___encoders="OneHotEncoder OrdinalEncoder",
    preprocessing___function_transformer="FunctionTransformer",
    preprocessing___label="LabelEncoder LabelBinarizer",
    preprocessing___polynomial="PolynomialFeatures",
) | {("builtins", "slice"), ("numpy", "float32"), ("numpy", "float64")}

#: All of these.
SKLEARN_ESTIMATORS = SKLEARN_FORESTS | SKLEARN_LINEAR | SKLEARN_PREPROCESSING


def checked_names(allow: Iterable[Name]) -> frozenset[Name]:
    """The pairs, if each is one.

    Raises:
        ConfigurationError: One is not, or has a dot in its name.
    """
    if isinstance(allow, str | bytes):
        raise ConfigurationError("load_model(allow=...) is a set of (module, name) pairs, such as SKLEARN_FORESTS")
    try:
        pairs = frozenset(allow)
    except TypeError:
        raise ConfigurationError(
            "load_model(allow=...) is a set of (module, name) pairs, such as SKLEARN_FORESTS"
        ) from None
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) and part for part in pair)):
            raise ConfigurationError('load_model(allow=...) takes pairs such as ("mymodule", "MyTransformer")')
        if "." in pair[1]:
            raise ConfigurationError(
                f"load_model(allow=...): {spell(pair)} reaches through an attribute; allow what a module itself has"
            )
    return pairs
