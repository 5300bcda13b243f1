"""Scans made ready for a network, and the way back to their own grid."""
