"""What comes out: posterior samples, their files and their spread."""
