"""The pure half: `step(state, now, event) -> effects`.

Nothing here opens a socket, reads a clock, draws a random number, starts a thread or touches a file. Time
comes in as an argument; timers, spawns, sends and whatever else touches the world go out as effects.
"""
