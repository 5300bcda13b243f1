"""Faults made on purpose: hostile and damaged files, kills, full disks, two commands at once, long runs."""
