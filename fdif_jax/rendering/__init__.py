"""From signed distances to image and label volumes, and the realism of the images."""
