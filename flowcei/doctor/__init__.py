"""Whether data are sound: what a check looks for, and repairs."""
