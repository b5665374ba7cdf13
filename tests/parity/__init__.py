"""What the daemon owes its ancestors, row by row."""
