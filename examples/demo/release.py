r"""Trains the model and releases it: signed, encrypted and promoted. Run it where models are made.

::

    python -m examples.demo.release models model-key.pem model-key.pub secrets/model-key
"""

import argparse
import tempfile
from pathlib import Path

import joblib
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from examples.demo.model import NAME, train, usual_images
from mlguard import ModelStore, ModelVersion, QueryMonitor, sign_model


def release(store: ModelStore) -> ModelVersion:
    """Make the next version, and have it served.

    Args:
        store: With the keys that sign and encrypt.
    """
    with tempfile.TemporaryDirectory(prefix="mlguard-demo-model-") as folder:
        file = Path(folder, f"{NAME}.joblib")
        joblib.dump(train(), file)
        saved = store.save(NAME, file, data_version="scikit-learn's digits")
    return store.promote(NAME, saved.version)


def measure_usual(file: Path, key: Path | EllipticCurvePrivateKey) -> None:
    """Write down what usual queries are like, signed as the model is: whoever could change it could hide.

    Args:
        file: Where to.
        key: Signs it.
    """
    images = usual_images()
    QueryMonitor.calibrate(images, scores=train().predict_proba(images), same_units=True).save(file)
    sign_model(file, key)


def main() -> None:
    """Release from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for argument in ("store", "signing_key", "verify_key", "encryption_key"):
        parser.add_argument(argument, type=Path)
    options = parser.parse_args()
    secret = options.encryption_key.read_text().strip()
    released = release(
        ModelStore(options.store, key=options.verify_key, signing_key=options.signing_key, encryption_key=secret)
    )
    measure_usual(options.store.with_name("usual-queries.json"), options.signing_key)
    print(f"{released.name} {released.version}, digest {released.digest}")


if __name__ == "__main__":
    main()
