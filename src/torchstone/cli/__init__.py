"""The command line: one file per command; each parses, calls a job, prints and sets the exit code."""
