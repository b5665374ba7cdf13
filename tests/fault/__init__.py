"""What happens when something dies, floods, hangs or lies."""
