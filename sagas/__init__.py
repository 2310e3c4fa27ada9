"""Sagas: the processes of the shop that span several contexts."""
