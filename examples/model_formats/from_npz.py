r"""The model is a file of NumPy arrays, without objects.

Save it with ``numpy.savez("iris.npz", weights=..., offset=...)``, sign it, start::

    mlguard model sign iris.npz --key model-key.pem
    MODEL=iris.npz MODEL_SIGNER=model-key.pub uvicorn --no-server-header examples.model_formats.from_npz:app
"""

from typing import Any

from examples.model_formats.service import Rows, make_service, model_file, signer
from mlguard import load_model

arrays = load_model(model_file(), key=signer())


def classify(rows: Rows) -> Any:
    """The largest of three linear scores."""
    return (rows @ arrays["weights"] + arrays["offset"]).argmax(axis=1)


app = make_service(classify)
