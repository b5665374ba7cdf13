"""Real sockets against a real daemon."""
