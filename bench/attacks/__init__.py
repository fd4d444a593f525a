"""Real attacks on small models, through the guarded app and its real JSON: what each guard buys, including nothing."""
