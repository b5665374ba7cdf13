"""Users: who they are, the groups they are in, and what that lets them do. What is not allowed is denied.

`Users` knows users, groups, what groups may do on nodes and workers, and quotas; its `tokens` the secrets by which
sessions speak as users. Other slices ask `Users.require` before they touch what belongs to a group, `may_send`
before they send its work to a node, and `charge` before they store something for it. Not here: sessions and keys
(`core.access`), and the verbs (`core.accounts`).
"""

from mgmt.core.users.records import Group, Token, User, UserState
from mgmt.core.users.tokens import Tokens
from mgmt.core.users.users import Users

__all__ = ["Group", "Token", "Tokens", "User", "UserState", "Users"]
