"""Everything that works without a screen: batches in, durable results out."""
