"""What `bin/benchmark` measures, a module for each kind of thing."""
