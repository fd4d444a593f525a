"""Where people come from: python-jose, passlib and slowapi beside mlguard's guards. Each needs its own extra."""
