"""The gateway: the one public door, before the services."""
