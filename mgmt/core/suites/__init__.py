"""Task suites: their states, what the queue is asked, and the rules of strikes; data and rules, no SQL."""
