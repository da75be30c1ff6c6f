"""What a group of trials has in common that no finished trial has: the likeliest reason why they failed. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]
"""What is known of a trial: its parameters, its seed, the node it ran on."""


def in_common(group: Sequence[Facts], finished: Sequence[Facts]) -> list[str]:
    """What all of a group have and none of the finished has, in words such as "batch_size = 512", "lr >= 0.1" or, where no single fact
    tells them apart, "depth = 3 and width = 8".

    Args:
        group: at least one.
        finished: what the words must not be true of; without any, what the group has in common is told.
    """
    names = [name for name in group[0] if all(name in facts for facts in group)]
    same = [name for name in names if all(_equal(facts[name], group[0][name]) for facts in group)]
    if not finished:
        return [_is(name, group[0][name]) for name in same]
    alone = [_is(name, group[0][name]) for name in same if not any(_equal(facts.get(name), group[0][name]) for facts in finished)]
    alone += [text for name in names if name not in same and (text := _beyond(name, group, finished))]
    if alone:
        return alone
    together = [name for name in same if any(not _equal(facts.get(name), group[0][name]) for facts in finished)]
    if any(all(_equal(facts.get(name), group[0][name]) for name in together) for facts in finished) or not together:
        return []
    return [" and ".join(_is(name, group[0][name]) for name in _fewest(together, group[0], finished))]


def _fewest(names: list[str], facts: Facts, finished: Sequence[Facts]) -> list[str]:
    """`names` without those that are not needed to leave out all that finished."""
    kept = list(names)
    for name in names:
        fewer = [other for other in kept if other != name]
        if not any(all(_equal(one.get(other), facts[other]) for other in fewer) for one in finished):
            kept = fewer
    return kept


def _beyond(name: str, group: Sequence[Facts], finished: Sequence[Facts]) -> str:
    """That all of the group's numbers lie above, or below, all of the others; "" when they do not, or are no numbers."""
    ours, theirs = [facts[name] for facts in group], [facts.get(name) for facts in finished]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (*ours, *theirs)):
        return ""
    if name == "seed":
        return ""  # seeds are names: their order means nothing
    known = [value for value in theirs if value is not None]
    if min(ours) > max(known):
        return f"{name} >= {min(ours)}"
    return f"{name} <= {max(ours)}" if max(ours) < min(known) else ""


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _is(name: str, value: Any) -> str:
    return f"{name} = {str(value).lower() if isinstance(value, bool) else value}"
