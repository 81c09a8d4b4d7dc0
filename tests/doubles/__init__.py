"""Stand-ins for the parts of the program that a test does not want. No path of a user leads here."""
