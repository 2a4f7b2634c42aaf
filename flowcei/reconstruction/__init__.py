"""One trained reconstruction: its model, its training, its samples."""
