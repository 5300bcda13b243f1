"""Options that several commands share, and the presets that set them."""
