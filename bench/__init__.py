"""Measurements of what the guards cost, as ratios in one run: ``python -m bench``."""
