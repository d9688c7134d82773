"""What a checkpoint is, and what it takes to run it."""
