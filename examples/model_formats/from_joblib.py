r"""The model is a joblib file, a random forest. Nothing in it may be named but what a random forest needs.

Save it with ``joblib.dump(model, "iris.joblib", compress=3)``, sign it, start::

    mlguard model sign iris.joblib --key model-key.pem
    MODEL=iris.joblib MODEL_SIGNER=model-key.pub uvicorn --no-server-header examples.model_formats.from_joblib:app

``mlguard model inspect iris.joblib`` lists what a file names, without running it.
"""

from examples.model_formats.service import make_service, model_file, signer
from mlguard import SKLEARN_FORESTS, load_model

forest = load_model(model_file(), key=signer(), allow=SKLEARN_FORESTS)
app = make_service(forest.predict)
