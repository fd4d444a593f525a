"""The command line: one module a command, with ``add_to`` that adds its parser. Nothing else has to know of it."""
