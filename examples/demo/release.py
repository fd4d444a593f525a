r"""Trains the model and releases it: signed, encrypted and promoted. Run it where models are made.

::

    python -m examples.demo.release models model-key.pem model-key.pub secrets/model-key
"""

import argparse
import tempfile
from pathlib import Path

import joblib

from examples.demo.model import NAME, train
from mlguard import ModelStore, ModelVersion


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
    print(f"{released.name} {released.version}, digest {released.digest}")


if __name__ == "__main__":
    main()
