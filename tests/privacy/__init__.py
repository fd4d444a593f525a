"""Tests of ``mlguard.privacy``."""
