"""What goes out: no more of the model than the caller needs."""
