"""The thin half: turns sockets, processes and timers into events, and carries effects out."""
