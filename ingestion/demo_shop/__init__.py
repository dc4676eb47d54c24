"""A simulated shop whose systems change day by day, and the truth about what the marts should hold."""
