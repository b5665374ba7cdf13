"""The pure half: `step(state, now, event)` returns effects and touches nothing else."""
