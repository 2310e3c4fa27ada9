"""The pure loops: no I/O, no clock, no random. Adapters drive them, the simulation breaks them."""
