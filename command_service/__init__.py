"""The write side of the shop: one file per aggregate, with its state, its rules and its facts."""
