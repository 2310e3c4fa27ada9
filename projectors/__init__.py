"""The shop's read models, one per file, and the process that keeps them."""
