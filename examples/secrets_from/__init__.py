"""A service whose secret comes from the environment, a directory, AWS, Azure, Google or Vault: one file a source."""
