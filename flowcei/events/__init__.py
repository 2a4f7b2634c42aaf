"""Events: what was measured or simulated, and the files it is kept in."""
