"""Labelled volumes on disk: layouts, writing, reading."""
