"""Metrics, statistics and calibration: pure functions of the arrays that a run saved."""
