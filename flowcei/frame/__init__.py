"""Frames that momenta and positions are described in, and the condition of a model."""
