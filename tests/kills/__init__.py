"""Runs that are killed at random moments while their source goes on changing, and what raw must hold after the next."""
