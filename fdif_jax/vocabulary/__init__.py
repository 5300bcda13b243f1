"""Named random families of shapes, displacements and mappers, and how a user writes and checks some."""
