"""Effects: work on the world outside, done at least once and asked for by a key that never changes.

An event becomes a row of work, once. A worker that holds the row's lease does it, and ends it with
a command that says what came of it, in one transaction.
"""
