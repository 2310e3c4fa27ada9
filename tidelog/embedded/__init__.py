"""Real servers on the user's own machine: Kafka, PostgreSQL, and the stack that `./dev up` runs.

Needs the extra `tidelog[embedded]`; nothing outside this folder and the command line imports it.
"""
