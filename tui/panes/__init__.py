"""One widget a file: draws the mirror, moves its own cursor, sends nothing."""
