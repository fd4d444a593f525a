r"""The model is a pickle, a random forest. Nothing in it may be named but what a random forest needs.

Save it with ``pickle.dump(model, file)``, sign it, start::

    mlguard model sign iris.pkl --key model-key.pem
    MODEL=iris.pkl MODEL_SIGNER=model-key.pub uvicorn --no-server-header examples.model_formats.from_pickle:app

``mlguard model inspect iris.pkl`` lists what a file names, without running it.
"""

from examples.model_formats.service import make_service, model_file, signer
from mlguard import SKLEARN_FORESTS, load_model

forest = load_model(model_file(), key=signer(), allow=SKLEARN_FORESTS)
app = make_service(forest.predict)
