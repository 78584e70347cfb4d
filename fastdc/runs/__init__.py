"""What a run leaves on the disk: its folder with a lock, files that appear whole, signals that end it, progress."""
