"""Tests of where people come from, against the real packages."""
