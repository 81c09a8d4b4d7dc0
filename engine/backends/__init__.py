"""Engines, one file each, and the child process that hosts one of them."""
