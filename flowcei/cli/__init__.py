"""One file a command: parse, call, print; no physics, and no torch at import."""
