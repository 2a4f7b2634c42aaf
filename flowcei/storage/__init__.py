"""Guarded files: the only way in which flowcei creates a file, replaces one, or opens HDF5."""
