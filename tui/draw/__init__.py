"""Pure functions from the runner's facts to lines of spans. They know no app and no widget."""
