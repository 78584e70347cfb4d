"""What a computation runs in: torch's settings, random numbers, compiled code, versions. Knows nothing of images or networks."""
