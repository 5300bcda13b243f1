"""Predictions for whole scans by sliding windows."""
