"""Everything before raw, and raw itself: taps, lake, target, demo shop."""
