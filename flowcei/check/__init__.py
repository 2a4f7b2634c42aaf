"""Whether a run is what a model predicts."""
