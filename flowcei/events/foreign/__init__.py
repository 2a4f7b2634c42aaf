"""Files of other programs: which column is which, and in which unit."""
