"""Whole stories, each one verb of the command line."""
