"""Tests of where secrets come from, and of what happens when they change."""
