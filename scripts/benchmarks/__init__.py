"""What `fdif bench` measures."""
