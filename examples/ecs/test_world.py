"""Components that lie apart cost fewer pages, and the shards of a world are one world."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from world import EVERY, main  # noqa: E402

ENTITIES = 200


@pytest.fixture(scope="module")
def figures():
    """One tick of each way to keep them."""
    return main(ENTITIES)


def test_all_that_can_move_have_moved(figures):
    assert figures["wide"]["moved"] == figures["components"]["moved"] == ENTITIES // EVERY
    assert figures["moved"] == sum(shard["moved"] for shard in figures["sharded"]) == ENTITIES // EVERY
    assert figures["positions"] == ENTITIES


def test_what_a_tick_has_nothing_to_do_with_is_not_in_its_way(figures):
    assert figures["components"]["touched"] < figures["wide"]["touched"]
    assert figures["components"]["written"] < figures["wide"]["written"]
    assert max(shard["touched"] for shard in figures["sharded"]) < figures["components"]["touched"]
