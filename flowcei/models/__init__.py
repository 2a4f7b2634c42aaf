"""Inverse models: architectures behind one interface; none knows of molecules."""
