"""A user's file of shapes."""

SHAPES = """\
import jax
import jax.numpy as jnp
import fdif_jax as fd
from fdif_jax import shapes


@fd.family
def ball(key, grid):
    return shapes.sphere(jax.random.uniform(key, minval=0.1, maxval=0.3) * min(grid))


@fd.family
def ring(key):
    return shapes.torus(20.0 + jax.random.uniform(key), 6.0)


@fd.mapper
def shell(d):
    return jnp.where(jnp.abs(d) < 2, 128.0, 0.0)
"""
