"""The fewest casts in a graph of two precisions, as a minimum cut.

Some nodes must run in single precision, some must run in half, the others may run in either. A tensor whose maker runs in the
one and some of whose readers run in the other needs a Cast, one for all of these readers. The least number of casts is the
value of a minimum cut between the two kinds of nodes, in a network with one unit of capacity for each tensor (Ford and
Fulkerson, Maximal Flow through a Network, Canadian Journal of Mathematics 1956).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field

Vertex = Hashable
_SOURCE, _SINK = object(), object()


@dataclass(frozen=True)
class Wire:
    """A tensor: the node that makes it, and the nodes that read it."""

    maker: str
    readers: tuple[str, ...]


def single_side(wires: Sequence[Wire], single: Collection[str], half: Collection[str]) -> set[str]:
    """The nodes that run in single precision when the casts are fewest: `single`, and as few others as that takes.

    single, half: the nodes whose precision is given; no node is in both.
    """
    network = _Network(endless=len(wires) + 1)
    for name in single:
        network.connect(_SOURCE, name)
    for name in half:
        network.connect(name, _SINK)
    for wire in wires:
        # The unit before `ahead` is cut when the maker is single and a reader half, the one after `behind` the other way round.
        ahead, behind = ("ahead", wire), ("behind", wire)
        network.connect(wire.maker, ahead, 1)
        network.connect(behind, wire.maker, 1)
        for reader in wire.readers:
            network.connect(ahead, reader)
            network.connect(reader, behind)
    while network.push():
        pass
    return {vertex for vertex in network.reached() if isinstance(vertex, str)}


@dataclass
class _Network:
    """Residual capacities, vertex -> next vertex -> units."""

    endless: int
    residual: dict[Vertex, dict[Vertex, int]] = field(default_factory=dict)

    def connect(self, start: Vertex, end: Vertex, units: int | None = None) -> None:
        """Add capacity from `start` to `end`; endless unless `units` are given."""
        onward = self.residual.setdefault(start, {})
        onward[end] = onward.get(end, 0) + (self.endless if units is None else units)
        self.residual.setdefault(end, {}).setdefault(start, 0)

    def push(self) -> bool:
        """Send one unit from source to sink, and say whether that was possible."""
        before = self.reached()
        if _SINK not in before:
            return False
        vertex: Vertex = _SINK
        while vertex is not _SOURCE:
            start = before[vertex]
            self.residual[start][vertex] -= 1
            self.residual[vertex][start] += 1
            vertex = start
        return True

    def reached(self) -> dict[Vertex, Vertex]:
        """The vertices that the source still reaches -> the vertex before each on a shortest way."""
        before: dict[Vertex, Vertex] = {_SOURCE: _SOURCE}
        waiting: deque[Vertex] = deque([_SOURCE])
        while waiting:
            vertex = waiting.popleft()
            for onward, units in self.residual.get(vertex, {}).items():
                if units > 0 and onward not in before:
                    before[onward] = vertex
                    waiting.append(onward)
        return before
