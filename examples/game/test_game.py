"""No player is lost, wherever players go."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from game import SIZE, Game, Player  # noqa: E402


@pytest.fixture(scope="module")
def game():
    made = Game(border=20)
    made.join(range(30))
    return made


def test_players_are_where_their_numbers_say(game):
    assert len(game.players) == 30
    assert game.crowds([0, 20, 30]) == [20, 10]


def test_moves_go_to_whoever_has_the_player(game):
    for number in (3, 25):
        assert game.move(number, 5, -5) == Player(number, SIZE // 2 + 5, SIZE // 2 - 5, 1)
    with pytest.raises(KeyError):
        game.move(1_000, 1, 1)


def test_a_split_loses_nobody_and_moves_go_on(game):
    before = {player.number: player for player in game.players.range(0, 100)}
    game.relieve()
    assert {player.number: player for player in game.players.range(0, 100)} == before
    assert game.move(15, SIZE, 0).x == SIZE - 1
    assert len(game.players) == 30
