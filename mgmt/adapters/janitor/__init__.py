"""An existing Janitor's database: its tables are read as they are, and its queue is written by its own rules."""
