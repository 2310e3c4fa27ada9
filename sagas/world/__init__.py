"""The world outside, in small: real processes that take calls, keep books, and can misbehave."""
