"""Posteriors by brute force and distances between samples, to judge models by."""
