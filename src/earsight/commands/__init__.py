"""The verbs of the command line, a file for each kind of work; each imports what it needs inside itself."""
