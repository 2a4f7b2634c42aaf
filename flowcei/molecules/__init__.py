"""Molecules: atoms, charges, masses, bonds."""
