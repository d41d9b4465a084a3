"""Command lines: each parses its options, calls one function of the packages, and ends with an exit code."""
