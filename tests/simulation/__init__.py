"""Deterministic simulation of turns: queue, relay, reaper, workers, journal and watchers on a virtual clock.

The use cases are the real ones, the adapters those in memory that pass the suites of the real ones. Between them stands
a wire that delays, loses and repeats, and under them a scheduler that decides from a seed who runs next, who is paused
and who is killed between any two steps. One seed is one history, always the same one:
`python -m tests.simulation --seed 7` replays it.
"""
