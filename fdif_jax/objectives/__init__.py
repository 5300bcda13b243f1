"""What a network is trained for: labels, dense contrast, distances, clean images, and sums of several objectives."""
