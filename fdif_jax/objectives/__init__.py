"""What a network is trained for: losses of labels, dense contrast, and sums of several objectives."""
