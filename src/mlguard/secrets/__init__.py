"""WHERE secrets come from: the environment, a directory, or a secret store. One file a source."""
