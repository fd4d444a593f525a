r"""The secret comes from AWS Secrets Manager. Needs ``pip install 'mlguard[aws]'``.

Make one with a key ``partner``, start with a role that may read it::

    aws secretsmanager create-secret --name prod/iris --secret-string \
        "{\"partner\": \"$(python -c "import secrets; print(secrets.token_urlsafe(32))")\"}"
    AWS_REGION=eu-central-1 uvicorn --no-server-header examples.secrets_from.aws:app

The role needs ``secretsmanager:GetSecretValue`` on this secret, and nothing else. boto3 takes it from the task, the pod
or the instance: put no access key into the environment.
"""

import os

from examples.secrets_from.service import make_service
from mlguard import AWSSecrets

app = make_service(AWSSecrets(os.environ["AWS_REGION"]), "prod/iris#partner")
