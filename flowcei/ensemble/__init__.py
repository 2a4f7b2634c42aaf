"""From events to the ensemble: the law that geometries follow, unfolded from the posteriors of events."""
