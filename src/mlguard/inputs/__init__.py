"""What comes in: numbers, checked on the way into an array."""
