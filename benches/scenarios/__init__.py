"""The scenarios: one file a family, each with a `scenarios(bench, peers)` that yields them.

A new family is one more file, and a name in this list."""

from . import fanout, group, memory, publish, replay, restart, rooms, stores

FAMILIES = [publish, replay, fanout, group, rooms, stores, restart, memory]
