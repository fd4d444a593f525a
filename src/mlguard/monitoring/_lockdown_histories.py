"""Two records that went apart: what a worker knows, and what was begun or went on in a store that had lost a part."""

from dataclasses import replace

from mlguard.monitoring._lockdown_state import MOST, Block, State, number_of


def newest(known: State, state: State) -> State:
    """What is in force, of what a worker knows and what the store has: one of them, or both as one.

    A store that is empty, or has an older copy of the record (a replica that lagged, a backup), lifts nothing. Where
    the record was begun anew, or went on from an older copy, what was locked down in either stays.
    """
    if not known.origin:
        return state
    if not state.origin or (state.origin == known.origin and state.revision < known.revision):
        return known
    return united(known, state) if state.origin != known.origin or _went_apart(known, state) else state


def _went_apart(known: State, state: State) -> bool:
    """Whether a record of as many changes or more lacks the last one that is known, and remembers back to it."""
    last = known.changes[-1:]
    if not last or last[0] in state.changes:
        return False
    return not state.changes or state.changes[0].revision <= last[0].revision


def united(mine: State, theirs: State) -> State:
    """What a worker knows of a record that was lost, and the one that was begun or went on since."""
    theirs_by_key = {block.key: block for block in theirs.blocks}
    lost = [block for block in mine.blocks if block.key not in theirs_by_key]
    room = {kind: most - number_of(theirs.blocks, kind) for kind, most in MOST.items()}
    kept: list[Block] = []
    for block in reversed(lost):  # what was set last stays, if there is no room
        if room[block.kind] > 0:
            room[block.kind] -= 1
            kept.insert(0, block)
    if not kept:
        return theirs
    revision, changes = theirs.revision + 1, theirs.changes
    if mine.origin == theirs.origin:  # under whose numbers other changes were told
        changes = tuple(one if one in mine.changes else replace(one, revision=revision) for one in changes)
    return replace(theirs, revision=revision, blocks=(*kept, *theirs.blocks), changes=changes)
