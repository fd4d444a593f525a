r"""The secret comes from HashiCorp Vault or OpenBao. Needs ``pip install 'mlguard[vault]'``.

Make one in the key-value engine, version 2, and a role that may read it, start::

    vault kv put secret/iris partner="$(python -c "import secrets; print(secrets.token_urlsafe(32))")"
    export VAULT_URL=https://vault.internal:8200 ROLE_ID=<role id> SECRET_ID_FILE=<file with the secret id>
    uvicorn --no-server-header examples.secrets_from.vault:app

The role's policy needs ``read`` on ``secret/data/iris``, and nothing else. In Kubernetes take ``kubernetes_role=``:
then there is no secret id to keep.
"""

import os

from examples.secrets_from.service import make_service
from mlguard import EnvironmentSecrets, VaultSecrets

secret_id = EnvironmentSecrets().read("SECRET_ID")  # or SECRET_ID_FILE
source = VaultSecrets(os.environ["VAULT_URL"], app_role=(os.environ["ROLE_ID"], secret_id))
app = make_service(source, "iris#partner")
