"""Long runs against a whole system: load, faults, and a checker that shares no code with it."""
