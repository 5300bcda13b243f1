"""The GPU programme (`make gpu`): its parts, each a process of its own, and what runs them."""
