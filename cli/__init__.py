"""The `mgmt` command; installed as `mgmt_cli`.

`main` holds the table of commands and turns every outcome into an exit status; one module per noun talks to
the daemon through `mgmt.client`; `render` and `schemas` say what people and programs are shown. A command's
module is imported when it is invoked, so that `mgmt status` costs little more than its socket.
"""
