"""What an experiment adds to an explosion: the motion of the beam."""
