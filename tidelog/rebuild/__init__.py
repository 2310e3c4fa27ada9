"""Rebuilding, proving and replaying read models: the log folded again, in bulk and in parallel."""
