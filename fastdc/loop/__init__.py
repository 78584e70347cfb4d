"""The loop that every method shares: networks, matching steps, images moved, checkpoints, events."""
