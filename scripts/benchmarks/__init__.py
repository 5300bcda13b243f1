"""What `fdif bench` measures, by kind."""
