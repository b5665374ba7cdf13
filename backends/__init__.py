"""Programs the daemon spawns; installed as `mgmt_backends`."""
