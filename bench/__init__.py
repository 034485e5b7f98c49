"""Measurements: printed as tables, side by side in one run; never asserted in tests."""
