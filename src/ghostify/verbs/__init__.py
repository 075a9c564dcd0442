"""The command line's verbs as functions, with the options for their arguments."""
