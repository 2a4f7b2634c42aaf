"""The first study: its datasets, priors and figures."""
