"""The forward physics: explosion, priors, detector; nothing here knows of networks."""
