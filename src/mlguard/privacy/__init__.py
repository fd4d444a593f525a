"""Whose data."""
