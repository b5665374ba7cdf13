"""The `mgmt` command; installed as `mgmt_cli`."""
