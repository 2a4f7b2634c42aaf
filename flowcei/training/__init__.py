"""Training: the loop, its schedule, and the checkpoints from which it goes on; it knows no molecules."""
