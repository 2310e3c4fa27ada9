"""Queries: the read models over HTTP."""
