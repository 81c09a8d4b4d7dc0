"""Everything that makes the embedded demo model `nano`: tasks, tokenizer, training, export, checks."""
