"""Commands over gRPC: the door for clients, and the way from one instance to another."""
