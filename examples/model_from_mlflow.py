"""A model out of MLflow's registry, into a store of signed versions. Run it where models are released.

::

    python -m examples.model_from_mlflow sqlite:///mlflow.db iris models model-key.pub model-key.pem

The registry is a database that many can write to. What services start with should not be: so the released version is
taken out of it once, and signed.
"""

import argparse
import tempfile
from pathlib import Path

import mlflow.artifacts
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.tracking import MlflowClient

from mlguard import ModelStore, ModelVersion


def latest(client: MlflowClient, name: str) -> RegisteredVersion:
    """The last version of a registered model."""
    return max(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))


def release(tracking_uri: str, name: str, store: ModelStore) -> ModelVersion:
    """Take the last version of a registered model over into a store, and promote it.

    Args:
        tracking_uri: Where MLflow's registry is.
        name: Of the model, there and here.
        store: With the signing key.
    """
    client = MlflowClient(tracking_uri, tracking_uri)
    version = latest(client, name)
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{name}/{version.version}", dst_path=folder, tracking_uri=tracking_uri
        )
        # One file of what MLflow keeps: the rest is for its own server.
        (file,) = [file for file in Path(path).iterdir() if file.suffix in {".skops", ".pkl", ".joblib"}]
        saved = store.save(
            name, file, code_version=f"mlflow run {version.run_id}", data_version=f"mlflow version {version.version}"
        )
    store.promote(name, saved.version)
    return saved


def main() -> None:
    """Release from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for argument in ("tracking_uri", "name", "store", "verify_key", "signing_key"):
        parser.add_argument(argument)
    options = parser.parse_args()
    store = ModelStore(options.store, key=Path(options.verify_key), signing_key=Path(options.signing_key))
    saved = release(options.tracking_uri, options.name, store)
    print(f"{saved.name} {saved.version}, digest {saved.digest}")


if __name__ == "__main__":
    main()
