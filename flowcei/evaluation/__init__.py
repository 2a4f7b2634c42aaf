"""How good the answers are: metrics, null models, comparison."""
