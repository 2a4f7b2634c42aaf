"""Model files: one `.safetensors` with a validated description; nothing is ever unpickled."""
