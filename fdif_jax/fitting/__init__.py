"""Shapes and families of shapes fitted to masks."""
