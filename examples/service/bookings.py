"""Bookings that survive crashes: one room, one guest, whatever is cut off between."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from perdure import Canister, Subnet
from perdure.kit import canister, nat64, query, update
from perdure.stable import StableBTreeMap, StableLog


@canister(name="bookings")
class Bookings:
    rooms: StableBTreeMap[nat64, str]
    journal: StableLog[str]

    @update
    def book(self, room: nat64, guest: str) -> nat64:
        """Book a room; the number of the entry in the journal. All of it happens, or nothing."""
        if not guest:
            raise ValueError("a guest has a name")
        if room in self.rooms:
            raise ValueError(f"room {room} is {self.rooms[room]}'s")
        self.rooms[room] = guest
        self.journal.append(f"{guest} has room {room}")
        return nat64(len(self.journal) - 1)

    @update
    def leave(self, room: nat64) -> None:
        """Free a room."""
        guest = self.rooms.get(room)
        if guest is None:
            raise ValueError(f"room {room} is free")
        del self.rooms[room]
        self.journal.append(f"{guest} left room {room}")

    @query
    def guest(self, room: nat64) -> str | None:
        return self.rooms.get(room)

    @query
    def entries(self) -> list[str]:
        return list(self.journal)


@contextmanager
def opened(directory: str = "state") -> Iterator[tuple[Subnet, Canister]]:
    """The service of a directory; its class may have changed since, and is upgraded then."""
    with Subnet(directory) as subnet:  # durability="message": an answer is given once it is on the platter
        yield subnet, subnet.canisters[0] if subnet.canisters else subnet.install(Bookings)


def main(verb: str, *words: str) -> None:
    """The command line."""
    with opened() as (subnet, service):
        actor = service.actor()
        if verb == "book":
            print("booked, entry", actor.book(int(words[0]), words[1]), flush=True)
        elif verb == "leave":
            actor.leave(int(words[0]))
        elif verb == "list":
            print("\n".join(actor.entries()))
        elif verb == "fill":  # books until it is killed
            for room in range(1_000_000):
                print(actor.book(room, f"guest {room}"), flush=True)
        elif verb == "serve":
            with subnet.serve(port=int(words[0])) as url:
                print(url, service.id, flush=True)
                sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
