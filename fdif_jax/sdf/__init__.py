"""Signed distance functions: shapes as pytrees, the algebra that combines them, and grids to evaluate them on."""
