"""Users and groups, what each may do, and how much each may have."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from mgmt.core.event import ADMINISTRATOR, Asked, Caller, Now
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.messages import Role

from .records import Group, Record, User, UserState, group_from, user_from
from .tokens import Tokens

MAY = {Role.READ: "see what is in", Role.WRITE: "submit to and change what is in", Role.ADMIN: "manage"}


class Users:
    """Users, deleted ones included, and groups, deleted ones included: no name is ever given again.

    The administrator is a user without a record until there is something worth one; the group of that name may
    send work to every node and worker.
    """

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.groups: dict[str, Group] = {}
        self.tokens = Tokens()
        self._dirty: dict[str, set[str]] = {"users": set(), "groups": set()}
        self._add(User(ADMINISTRATOR, admin=True), ADMINISTRATOR)

    # ---- the store ----

    def restore(self, records: dict[str, dict[str, Record]]) -> None:
        for record in records.get("users", {}).values():
            self.users[record["name"]] = user_from(record)
        for record in records.get("groups", {}).values():
            self.groups[record["name"]] = group_from(record)
        self.tokens.restore(records.get("tokens", {}))

    @property
    def dirty(self) -> bool:
        """Whether there is something that the store does not have yet."""
        return bool(self._dirty["users"] or self._dirty["groups"] or self.tokens.dirty)

    def take_changes(self) -> dict[str, dict[str, Record | None]]:
        """Records by table of what the store does not have yet; each is handed out once."""
        known: dict[str, dict[str, Any]] = {
            "users": self.users,
            "groups": self.groups,
            "tokens": self.tokens.by_id,
        }
        dirty = {**self._dirty, "tokens": self.tokens.dirty}
        changes = {
            table: {name: known[table][name].to_record() if name in known[table] else None for name in names}
            for table, names in dirty.items()
            if names
        }
        for names in dirty.values():
            names.clear()
        return changes

    # ---- users ----

    def user(self, name: str) -> User:
        """A user who was not deleted; MgmtError `unknown-user`."""
        user = self.users.get(name)
        if user is None or user.state is UserState.DELETED:
            there = [user.name for user in self.users.values() if user.state is not UserState.DELETED]
            hint = "it was deleted" if user is not None else _near(name, there, "mgmt user list")
            raise MgmtError("unknown-user", f"there is no user {name!r:.80}; {hint}", user=name)
        return user

    def prove(self, name: str) -> User:
        """A user who may speak; MgmtError `not-authorised` for one who is locked, deleted, or never was."""
        user = self.users.get(name)
        if user is not None and user.state is UserState.ACTIVE:
            return user
        if user is None:
            text = f"there is no user {name!r:.80}; an administrator makes one with `mgmt user create`"
        elif user.state is UserState.DELETED:
            text = f"user {name!r} was deleted; an administrator can make another one with `mgmt user create`"
        else:
            text = f"user {name!r} is locked; `mgmt user unlock {name}`, said by an administrator, ends that"
        raise MgmtError("not-authorised", text, user=name)

    def create(self, now: Now, name: str, admin: bool) -> User:
        """A user and a group of the same name; MgmtError `conflict` when the name was ever taken."""
        self._refuse_taken(name)
        if len(self.users) >= defaults.MAX_USERS:
            text = f"there were {len(self.users)} users, which is the limit"
            raise MgmtError("over-quota", text)
        user = User(name, now.real_s, admin)
        self._add(user, name)
        self.touch(user)
        self.touch(self.groups[name])
        return user

    def _add(self, user: User, creator: str) -> None:
        self.users[user.name] = user
        self.groups[user.name] = Group(user.name, creator, user.created_at, members={user.name: Role.ADMIN})

    def lock(self, name: str, locked: bool) -> User:
        """MgmtError `unknown-user`, `conflict` for the administrator."""
        user = self.user(name)
        _refuse_administrator(name, "locked")
        user.state = UserState.LOCKED if locked else UserState.ACTIVE
        self.touch(user)
        return user

    def delete(self, name: str) -> User:
        """With the group of that name, all tokens and memberships; MgmtError as `lock`."""
        user = self.user(name)
        _refuse_administrator(name, "deleted")
        user.state = UserState.DELETED
        self.touch(user)
        self.groups[name].deleted = True
        self.touch(self.groups[name])
        for group in self.groups_of(name):
            del group.members[name]
            self.touch(group)
        for token in self.tokens.of(name):
            self.tokens.remove(token)
        return user

    def touch(self, what: User | Group) -> None:
        """It was changed."""
        self._dirty["users" if isinstance(what, User) else "groups"].add(what.name)

    # ---- groups ----

    def group(self, name: str) -> Group:
        """A group that was not deleted; MgmtError `unknown-group`."""
        group = self.groups.get(name)
        if group is None or group.deleted:
            there = [group.name for group in self.groups.values() if not group.deleted]
            hint = "it was deleted" if group is not None else _near(name, there, "mgmt group list")
            raise MgmtError("unknown-group", f"there is no group {name!r:.80}; {hint}", group=name)
        return group

    def groups_of(self, user: str) -> list[Group]:
        """Those the user is in."""
        return [group for group in self.groups.values() if user in group.members and not group.deleted]

    def created_by(self, user: str) -> int:
        """How many groups a user made that are still there, the one of the same name not counted."""
        return sum(
            group.creator == user and not group.deleted and group.name != user
            for group in self.groups.values()
        )

    def create_group(self, now: Now, asked: Asked, name: str) -> Group:
        """With whoever asks as its admin; MgmtError `conflict` or `over-quota`."""
        creator = self.users[asked.by.user]
        self._refuse_taken(name)
        count = self.created_by(creator.name)
        if count >= creator.group_quota and not asked.by.is_administrator:
            text = (
                f"user {creator.name!r} has created {count} groups of {creator.group_quota}: delete one, or "
                f"ask an administrator for more (`mgmt quota set {creator.name} --groups {count + 1}`)"
            )
            raise MgmtError("over-quota", text, quota=creator.group_quota)
        group = Group(name, creator.name, now.real_s, members={creator.name: Role.ADMIN})
        self.groups[name] = group
        self.touch(group)
        return group

    def delete_group(self, name: str) -> Group:
        """MgmtError `conflict` for a user's own, which goes with the user."""
        group = self.group(name)
        if name in self.users:
            text = f"group {name!r} is user {name!r}'s own: both go with (`mgmt user delete {name}`)"
            raise MgmtError("conflict", text)
        group.deleted = True
        self.touch(group)
        return group

    def set_member(self, name: str, user: str, role: Role | None, *, new: bool) -> Group:
        """Let a user into a group (`new`), or change the role there; None: put out.

        MgmtError `unknown-user`, or `conflict` for who is in already, is not in, or is the last admin.
        """
        group, member = self.group(name), self.user(user).name
        now_is = group.members.get(member)
        if new and now_is is not None and now_is is not role:
            hint = f"change it with `mgmt group role {name} {user} {role}`"
            raise MgmtError("conflict", f"user {user!r} is in group {name!r} as {now_is}; {hint}")
        if not new and now_is is None:
            hint = f"let them in with `mgmt group add {name} {user}`"
            raise MgmtError("conflict", f"user {user!r} is not in group {name!r}; {hint}")
        if now_is is Role.ADMIN and role is not Role.ADMIN:
            if name == member:
                raise MgmtError("conflict", f"group {name!r} is user {name!r}'s own, who stays its admin")
            if group.admins == [member]:
                hint = f"make another one admin first (`mgmt group role {name} USER admin`)"
                raise MgmtError("conflict", f"user {user!r} is the last admin of group {name!r}; {hint}")
        if role is None:
            del group.members[member]
        else:
            group.members[member] = role
        self.touch(group)
        return group

    def _refuse_taken(self, name: str) -> None:
        if name in self.groups:  # each user has a group of the same name
            what = "user" if name in self.users else "group"
            gone = self.groups[name].deleted
            was = f"was that of a {what} who is deleted" if gone else f"is that of a {what}"
            raise MgmtError(
                "conflict", f"the name {name!r} {was}: users and groups share their names; choose another"
            )

    # ---- what is allowed ----

    def role_in(self, user: str, group: str) -> Role | None:
        """None: not in it, or it was deleted."""
        found = self.groups.get(group)
        return None if found is None or found.deleted else found.members.get(user)

    def require(
        self,
        asked: Asked,
        *,
        group: str | None = None,
        node: str | None = None,
        worker: str | None = None,
        role: Role = Role.WRITE,
    ) -> None:
        """MgmtError `denied` unless whoever asks has the role on each object named; `unknown-group`.

        On a node or worker one group must give both: the role on it, and the same role in the group.
        """
        by = asked.by
        if group is not None:
            found = self.group(group)
            if not by.is_administrator and not _covers(found.members.get(by.user), role):
                self._deny_group(by, found, role)
        for kind, name in (("node", node), ("worker", worker)):
            if name is not None and not by.is_administrator and not self.may(by.user, kind, name, role):
                self._deny_place(by, kind, name, role)

    def may(self, user: str, kind: str, name: str, role: Role) -> bool:
        """Whether one group gives a user the role on a node or worker."""
        return any(
            _covers(group.members[user], role) and _covers(group.grants[kind].get(name), role)
            for group in self.groups_of(user)
        )

    def may_send(self, group: str, kind: str, name: str) -> bool:
        """Whether work of a group may go to a node or worker."""
        found = self.groups.get(group)
        if found is None or found.deleted:
            return False
        return group == ADMINISTRATOR or _covers(found.grants[kind].get(name), Role.WRITE)

    def managers(self, kind: str, name: str) -> list[str]:
        """The groups whose admins manage a node or worker, the administrator's not among them."""
        return sorted(
            group.name
            for group in self.groups.values()
            if not group.deleted and group.grants[kind].get(name) is Role.ADMIN
        )

    def _deny_group(self, by: Caller, group: Group, role: Role) -> None:
        who = f"user {by.user!r}" if by.user else by.via
        has = group.members.get(by.user)
        has_text = f"{who} has the role {has} there" if has is not None else f"{who} is not in it"
        verb = "role" if has is not None else "add"
        option = role if has is not None else f"--role {role}"
        givers = ", ".join(group.admins) or "an administrator"
        text = (
            f"to {MAY[role]} group {group.name!r} takes the role {role} in it, and {has_text}; {givers} can give "
            f"it (`mgmt group {verb} {group.name} {by.user or 'USER'} {option}`)"
        )
        raise MgmtError("denied", text, group=group.name, role=str(role))

    def _deny_place(self, by: Caller, kind: str, name: str, role: Role) -> None:
        who = f"user {by.user!r}" if by.user else by.via
        what = "to manage" if role is Role.ADMIN else "to send work to"
        givers = ", ".join(f"the admins of group {group}" for group in self.managers(kind, name))
        text = (
            f"{what} {kind} {name!r} takes one group that has the role {role} on it, and the same role of {who} "
            f"in that group; {givers or 'an administrator'} can give it (`mgmt group grant GROUP --{kind} {name} "
            f"--role {role}`)"
        )
        raise MgmtError("denied", text, role=str(role), **{kind: name})

    # ---- nodes and workers ----

    def grant(self, group: str, kind: str, name: str, role: Role | None) -> Group:
        """Give a group a role on a node or worker, or take it away."""
        found = self.group(group)
        if role is None:
            found.grants[kind].pop(name, None)
        else:
            found.grants[kind][name] = role
        self.touch(found)
        return found

    def plan_enrolment(self, by: Caller, kind: str, name: str, groups: Iterable[str]) -> dict[str, Role]:
        """What groups get on a node or worker that a user brings: the user's own manages it, others as told.

        `groups`: NAME or NAME:ROLE. Nothing when somebody manages it already. MgmtError `bad-body`,
        `unknown-group`, or `denied`: for a group in which the user may not write, and for what another manages.
        """
        planned = {by.user: Role.ADMIN}
        if self.managers(kind, name):
            if not self.may(by.user, kind, name, Role.ADMIN):
                self._deny_place(by, kind, name, Role.ADMIN)
            return {}
        for told in groups:
            group, _, word = told.partition(":")
            try:
                role = Role[word.upper()] if word else Role.WRITE
            except KeyError:
                raise MgmtError("bad-body", f"{told!r:.80}: the role is read, write or admin") from None
            found = self.group(group)
            if not self.users[by.user].admin and not _covers(found.members.get(by.user), Role.WRITE):
                self._deny_group(by, found, Role.WRITE)
            planned[group] = max(role, planned.get(group, role))
        return planned

    def enrol(self, kind: str, name: str, planned: dict[str, Role]) -> None:
        for group, role in planned.items():
            self.grant(group, kind, name, role)

    def retire(self, kind: str, name: str) -> None:
        """The node or worker is gone for good."""
        for group in self.groups.values():
            if name in group.grants[kind]:
                self.grant(group.name, kind, name, None)

    # ---- quotas ----

    def count_stored(self, group: str, used_bytes: int) -> None:
        """What is stored for a group, as the queue has counted it."""
        found = self.groups.get(group)
        if found is not None:
            found.storage_used_bytes = used_bytes


def _covers(has: Role | None, needed: Role) -> bool:
    return has is not None and has >= needed


def _near(name: str, known: Iterable[str], lists: str) -> str:
    near = get_close_matches(name[: defaults.MAX_ACCOUNT_CHARS], list(known), 2, 0.75)
    return f"did you mean {' or '.join(near)}?" if near else f"`{lists}` lists what there is"


def _refuse_administrator(name: str, what: str) -> None:
    if name == ADMINISTRATOR:
        text = f"{name!r} is whoever owns this daemon's socket, and cannot be {what}"
        raise MgmtError("conflict", text)
