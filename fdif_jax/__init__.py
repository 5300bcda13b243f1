"""fdif-jax."""
