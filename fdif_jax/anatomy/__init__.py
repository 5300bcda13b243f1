"""Banks of organs made from label maps, and the placement that lays out a body of them."""
