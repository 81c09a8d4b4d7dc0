"""What opens over the panes: add a batch, results, help, commands, confirmations, memory."""
