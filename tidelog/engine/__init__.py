"""The pure loops: no I/O, no clock, no random. Adapters drive them and the simulation breaks them."""
