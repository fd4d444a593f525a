"""How much: limits on what one caller may ask."""
