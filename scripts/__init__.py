"""The jobs: one module a command, each also runnable with ``python -m``."""
