"""The vendors' twins from the command line: one served in the foreground, a running one told to behave otherwise."""
