"""The installed product: processes, systemd, files."""
