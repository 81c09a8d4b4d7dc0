"""What a person sees and types: the command line now, the terminal UI on top of the same client."""
