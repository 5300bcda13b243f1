"""Recipes of random scenes, and their compilation to programs that draw and render labelled volumes."""
