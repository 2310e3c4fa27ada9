"""The live windows: figures of the last minutes, counted by a Faust app that reads the log."""
