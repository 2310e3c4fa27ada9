"""Notifications: a reader of its own tells customers what became of orders, money and returns."""
