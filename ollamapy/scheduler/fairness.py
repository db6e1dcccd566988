"""Whose turn it is: rows of the device are shared fairly among the clients who want them.

Each client has a counter of the rows that were computed for it; who is behind goes first (the virtual token
counter of Sheng et al., "Fairness in Serving Large Language Models", 2024). A client that comes back starts
level with the one that is furthest behind: being away saves nothing up. Differences below a quantum do not count, so
that ordinary requests are served in order of arrival and each is finished before the next is begun.
"""

from __future__ import annotations

from collections import Counter

QUANTUM = 1024  # rows
_REMEMBERED = 1024  # clients without requests whose counters are kept


class FairShare:
    def __init__(self, quantum: int = QUANTUM) -> None:
        self._quantum = quantum
        self._served: dict[str, int] = {}
        self._present: Counter[str] = Counter()  # requests by client
        self._lowest: int | None = None  # the floor; None when something has changed

    def join(self, client: str) -> None:
        """A request of client is there."""
        if self._present[client] == 0:
            floor = self._floor()
            self._served[client] = max(self._served.get(client, 0), floor)
            if len(self._served) > _REMEMBERED:
                self._served = {c: n for c, n in self._served.items() if n > floor or self._present[c]}
                self._served.setdefault(client, floor)
        self._present[client] += 1
        self._lowest = None

    def leave(self, client: str) -> None:
        """A request of client is gone."""
        self._present[client] -= 1
        if self._present[client] <= 0:
            del self._present[client]
            self._lowest = None

    def charge(self, client: str, rows: int) -> None:
        self._served[client] = self._served.get(client, 0) + rows
        self._lowest = None

    def turn(self, client: str) -> int:
        """Smaller goes first: how many quanta it is ahead of the one furthest behind."""
        return (self._served.get(client, 0) - self._floor()) // self._quantum

    def _floor(self) -> int:
        """The counter of the client that is furthest behind of those present."""
        if self._lowest is None:
            present = (self._served[client] for client, n in self._present.items() if n)
            self._lowest = min(present, default=0)
        return self._lowest
