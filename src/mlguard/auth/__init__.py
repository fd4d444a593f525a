"""Who is calling: keys, tokens and signed requests."""
