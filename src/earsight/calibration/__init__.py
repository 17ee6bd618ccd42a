"""Calibrated confidence: temperature, conformal prediction sets, and out-of-distribution scores."""
