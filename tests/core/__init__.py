"""The pure core, event by event."""
