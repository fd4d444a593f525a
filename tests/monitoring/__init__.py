"""Tests of what happened: numbers, records, detectors."""
