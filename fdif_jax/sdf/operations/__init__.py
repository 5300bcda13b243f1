"""More operations on shapes: seams, copies, deformations, transitions, noise, and what changes the distance alone.

The usual ones are in `fdif_jax.sdf.algebra`; set operations in `fdif_jax.sdf.shape`.
"""
