"""What this project's speed and memory are, measured beside the alternatives."""
