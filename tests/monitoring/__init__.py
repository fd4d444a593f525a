"""Tests of what happened, and what is done about it."""
