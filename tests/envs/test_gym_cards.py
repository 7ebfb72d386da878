# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The rules, case by case."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_vlmq.envs import check_text_action_env
from trl_vlmq.envs.gym_cards.cards import RANKS, Card, draw_card
from trl_vlmq.envs.gym_cards.points import is_held_out


GAMES = ("NumberLine", "EZPoints", "Points24", "Blackjack")


def make(game, **kwargs):
    return gymnasium.make(f"trl_vlmq/{game}-v0", **kwargs).unwrapped


def say(action):
    return json.dumps({"action": action})


def hand(ranks):
    return [Card(RANKS.index(rank) + 1, i % 4) for i, rank in enumerate(ranks.split())]


def blackjack(player, dealer, **kwargs):
    env = make("Blackjack", **kwargs)
    env.reset(seed=0, options={"player": hand(player), "dealer": hand(dealer)})
    return env


def play(env, actions):
    """(rewards, terminated, truncated, info of the last step)"""
    rewards = []
    for action in actions:
        _, reward, terminated, truncated, info = env.step(say(action))
        rewards.append(reward)
    return rewards, terminated, truncated, info


def run(env, name, seed):
    env.reset(seed=seed)
    behavior = env.make_behavior(name, np.random.default_rng([seed, 1]))
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(behavior.act())
        assert info["action_is_valid"]
        ended = terminated or truncated
    return info["success"]


@pytest.mark.parametrize("game", GAMES)
def test_gymnasiums_and_our_checker_pass(game, recwarn):
    env = gymnasium.make(f"trl_vlmq/{game}-v0")
    check_env(env.unwrapped)
    check_text_action_env(env)
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize(
    ("player", "dealer", "reward"),
    [
        ("10 9", "10 8", 1.0),
        ("10 8", "10 8", 0.0),
        ("10 7", "10 8", -1.0),
        ("10 7", "K A", -1.0),
        ("A K", "10 8", 1.0),
        ("A K", "K A", 0.0),
        ("7 7 7", "K A", 0.0),  # without further rules 21 is 21
        ("A 6", "10 7", 0.0),  # soft 17: the ace counts 11
        ("A A 9", "10 K", 1.0),  # 11 + 1 + 9
    ],
)
def test_the_higher_hand_wins(player, dealer, reward):
    rewards, terminated, _, info = play(blackjack(player, dealer), ["stand"])
    assert (rewards, terminated, info["success"]) == ([reward], True, reward > 0)


def test_hands_of_your_choice_are_dealt_and_wrong_ones_are_refused():
    env = make("Blackjack")
    drawn, _ = env.reset(seed=3)
    player, dealer = env.player, env.dealer
    chosen, _ = env.reset(seed=3, options={"player": hand("A 6")})
    assert env.state[:2] == (17, True) and env.dealer == dealer
    assert not np.array_equal(chosen["image"], drawn["image"])
    again, _ = env.reset(seed=4, options={"player": player, "dealer": dealer})
    assert np.array_equal(again["image"], drawn["image"])
    for options in ({"dealer": hand("A")}, {"deck": hand("A K")}):
        with pytest.raises(ValueError, match="`player`, and at least two of `dealer`"):
            env.reset(options=options)


def test_the_dealer_draws_to_17_and_may_bust():
    rewards = set()
    for seed in range(50):
        env = blackjack("10 8", "10 6")
        env.np_random = np.random.default_rng(seed)
        reward = play(env, ["stand"])[0][0]
        total = 16 + sum(card.value for card in env.dealer[2:])
        assert len(env.dealer) == 3 and reward == (1.0 if total > 21 or total < 18 else 0.0 if total == 18 else -1.0)
        rewards.add(reward)
    assert rewards == {1.0, 0.0, -1.0}
    env = blackjack("10 8", "A 6")  # a soft 17 stands
    play(env, ["stand"])
    assert len(env.dealer) == 2


def test_a_bust_ends_the_game_at_once():
    env = blackjack("10 9 2", "5 5")
    rewards, terminated, _, info = play(env, ["hit"])
    assert (rewards, terminated, info["success"]) == ([-1.0], True, False)
    assert len(env.dealer) == 2


@pytest.mark.parametrize(
    ("rules", "player", "dealer", "reward"),
    [
        ({"natural": True}, "A K", "10 8", 1.5),
        ({"natural": True}, "A K", "K A", 0.0),
        ({"natural": True}, "7 7 7", "10 8", 1.0),
        ({"sab": True}, "A K", "7 7 7", 1.0),
        ({"sab": True}, "A K", "A K", 0.0),
        ({"sab": True}, "7 7 7", "A K", 0.0),
        ({}, "A K", "7 7 7", 0.0),
    ],
)
def test_naturals(rules, player, dealer, reward):
    assert play(blackjack(player, dealer, **rules), ["stand"])[0] == [reward]


def test_two_rules_for_naturals_at_once_are_refused():
    with pytest.raises(ValueError, match="choose one"):
        make("Blackjack", natural=True, sab=True)


def test_the_cards_of_a_hand_lie_side_by_side_however_many_there_are():
    env = blackjack(" ".join(["A"] * 21), "10 8")
    before = env._observe()[0]
    for i in range(21):  # each is seen: another rank in its place changes the picture
        env.player[i] = Card(8, env.player[i].suit)
        after = env._observe()[0]
        assert (before != after).any(), i
        before = after


def test_the_dealers_second_card_shows_at_the_end_only():
    def picture(hole, stand):
        env = blackjack("10 9", f"10 {hole}")
        return env.step(say("stand"))[0]["image"] if stand else env._observe()[0]

    assert (picture("7", False) == picture("8", False)).all()
    assert (picture("7", True) != picture("8", True)).any()


@pytest.mark.parametrize("image_size", [84, 112, 300])
def test_every_rank_has_its_own_picture(image_size):
    env = blackjack("A A", "A A", image_size=image_size)
    seen = set()
    for rank in RANKS:
        env.player = hand(f"{rank} {rank}")
        seen.add(env._observe()[0].tobytes())
    assert len(seen) == 13


def test_number_line_pays_for_arriving_and_charges_for_detours():
    env = make("NumberLine")
    env.reset(seed=0)
    env.number, env.target = 1, 3
    rewards, terminated, _, info = play(env, ["-", "+", "+", "+"])
    assert rewards == [-1.0, 0.0, 0.0, 1.0] and terminated and not info["success"]  # a return of 0 is no success
    env.reset(seed=0)
    env.number, env.target = 0, 2
    rewards, _, _, info = play(env, ["-"])  # against the end of the line
    assert rewards == [-1.0] and not info["action_is_effective"]
    env.reset(seed=0)
    env.number, env.target = 4, 2
    assert play(env, ["-", "-"])[3]["success"]


def test_number_line_truncates_after_ten_steps():
    env = make("NumberLine")
    env.reset(seed=0)
    env.number, env.target = 0, 5
    rewards, terminated, truncated, _ = play(env, ["-"] * 10)
    assert rewards == [-1.0] * 10 and truncated and not terminated


def points(game, cards, **kwargs):
    env = make(game, **kwargs)
    env.reset(seed=0)
    env.cards = hand(cards)
    return env


@pytest.mark.parametrize(
    ("game", "cards", "formula", "rewards"),
    [
        ("EZPoints", "2 Q", "10 + 2 =", [0, 0, 0, 10]),
        ("EZPoints", "6 2", "6 * 2 =", [0, 0, 0, 10]),
        ("EZPoints", "6 2", "6 + 2 =", [0, 0, 0, -1]),
        ("EZPoints", "6 6", "6 + 6 =", [0, 0, 0, 10]),
        ("EZPoints", "5 7", "6 5 5 + 7 =", [-1, 0, -1, 0, 0, 10]),  # absent, then used: neither is written
        ("EZPoints", "5 7", "5 =", [0, -1]),
        ("EZPoints", "5 7", "=", [-1]),
        ("EZPoints", "2 A", "1 2 =", [0, 0, -1]),  # digits are not joined
        ("Points24", "8 8 3 3", "8 / ( 3 - 8 / 3 ) =", [0] * 9 + [10]),
        ("Points24", "A 2 3 4", "1 * 2 * 3 * 4 =", [0] * 7 + [10]),
        ("Points24", "6 4 A A", "6 * 4 =", [0, 0, 0, -1]),  # all cards
        ("Points24", "6 4 A A", "6 * 4 / ( 1 - 1 ) =", [0] * 9 + [-1]),  # division by zero
        ("Points24", "6 4 A A", ") =", [0, -1]),
    ],
)
def test_formulas(game, cards, formula, rewards):
    env = points(game, cards)
    got, terminated, _, info = play(env, formula.split())
    assert got == rewards and terminated and info["success"] == (sum(rewards) > 0)


def test_digits_are_joined_if_asked_for():
    assert play(points("EZPoints", "A 2", join_digits=True), ["1", "2", "="])[0] == [0, 0, 10]


def test_the_formula_so_far_is_in_the_prompt():
    env = points("Points24", "8 8 3 3")
    assert "\nFormula:\n" in env._observe()[1]
    play(env, ["8", "/", "("])
    assert "\nFormula: 8 / (\n" in env._observe()[1]


@pytest.mark.parametrize(("game", "steps"), [("EZPoints", 7), ("Points24", 22)])
def test_formulas_run_out_of_time(game, steps):
    _, terminated, truncated, info = play(make_and_reset(game), ["+"] * steps)
    assert truncated and not terminated and not info["success"]


def make_and_reset(game, **kwargs):
    env = make(game, **kwargs)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("game", GAMES)
def test_an_action_that_is_not_understood_costs_a_point_and_changes_nothing_else(game):
    env = make_and_reset(game)
    before, _ = env.reset(seed=1)
    after, reward, terminated, truncated, info = env.step("hit me")
    assert reward == -1.0 and not terminated and not truncated and not info["action_is_valid"]
    assert (before["image"] == after["image"]).all() and before["text"] == after["text"]


def test_the_penalty_counts_towards_the_return():
    env = blackjack("10 9", "10 8")
    env.step("?")
    assert env.step(say("stand"))[4]["success"] is False
    env = blackjack("10 9", "10 8", invalid_penalty=0.1)
    env.step("?")
    assert env.step(say("stand"))[4]["success"] is True


def test_ezpoints_deals_make_12_and_come_as_often_as_they_should():
    env = make("EZPoints")
    rng = np.random.default_rng(0)
    pairs = {}
    for _ in range(13_000):
        env.np_random = rng
        one, two = (card.value for card in env._deal())
        assert one + two == 12 or one * two == 12
        key = tuple(sorted((one, two)))
        pairs[key] = pairs.get(key, 0) + 1
    expected = {(2, 10): 4.5 / 12, (2, 6): 1 / 12, (3, 9): 1.5 / 12, (3, 4): 1 / 12, (4, 8): 1.5 / 12}
    expected |= {(5, 7): 2 / 12, (6, 6): 0.5 / 12}
    assert set(pairs) == set(expected)
    for key, probability in expected.items():
        assert abs(pairs[key] / 13_000 - probability) < 4 * (probability * (1 - probability) / 13_000) ** 0.5, key


def test_a_deck_is_uniform():
    rng = np.random.default_rng(0)
    counts = np.zeros((13, 4))
    for _ in range(26_000):
        card = draw_card(rng)
        counts[card.rank - 1, card.suit] += 1
    assert abs(counts - 500).max() < 5 * 500**0.5
    assert {draw_card(rng, lowest=2).rank for _ in range(2000)} == set(range(2, 14))


def test_held_out_deals_are_never_dealt_in_training():
    for deals in ("train", "held_out"):
        env = make("Points24", deals=deals)
        for seed in range(60):
            env.reset(seed=seed)
            assert is_held_out(env.cards) == (deals == "held_out")
            same_values = [Card(card.value, 0) for card in reversed(env.cards)]
            assert is_held_out(same_values) == is_held_out(env.cards)
    for deals, dealt in (("train", {2, 4, 5, 6, 7, 8, 10}), ("held_out", {3, 9})):
        env = make("EZPoints", deals=deals)
        values = set()
        for seed in range(100):
            env.reset(seed=seed)
            values |= {card.value for card in env.cards}
        assert values == dealt | ({3} if deals == "train" else set())  # 3 with 4 is dealt in training
    with pytest.raises(ValueError, match="'train', 'held_out' or None"):
        make("Points24", deals="test")


@pytest.mark.parametrize("game", GAMES)
def test_behaviors_differ_in_quality(game):
    env, episodes = make(game), 2000 if game == "Blackjack" else 200
    rates = {name: np.mean([run(env, name, seed) for seed in range(episodes)]) for name in env.behaviors}
    bad = env.behaviors[-1]
    assert rates[bad] < rates["noisy_expert"] < rates["expert"] and rates["random"] < rates["noisy_expert"]
    if game in ("NumberLine", "EZPoints"):
        assert rates["expert"] == 1.0 and rates[bad] == 0.0


@pytest.mark.parametrize("game", ["EZPoints", "Points24"])
def test_a_forgetful_player_shows_what_it_costs_to_play_a_number_twice(game):
    env, lost, solved = make(game), 0, 0
    for seed in range(100):
        env.reset(seed=seed)
        player, done = env.make_behavior("forgetful", np.random.default_rng(seed)), False
        while not done:
            formula, twice = list(env.formula), env.unused()
            _, reward, terminated, truncated, info = env.step(player.act())
            done = terminated or truncated
            action = info["executed_action"]
            if action in formula and action.isdecimal() and not twice[action]:
                assert reward == -1 and env.formula == formula
                lost += 1
        solved += info["success"]
    assert lost > 20 and solved > 30  # it loses a point and goes on


@pytest.mark.parametrize("game", GAMES)
def test_thoughts_come_before_the_action_and_say_what_is_seen(game):
    env = make(game, thoughts=True)
    observation, _ = env.reset(seed=3)
    assert '"thoughts": "...", "action": "..."' in observation["text"]
    answer = json.loads(env.make_behavior("random", np.random.default_rng(0)).act())
    assert list(answer) == ["thoughts", "action"] and answer["thoughts"] == env.describe() != ""
    assert env.step(json.dumps({"action": answer["action"]}))[4]["action_is_valid"] is False


def test_a_symbolic_game_can_be_played_blind():
    env = make("Blackjack", symbolic=True)
    env.reset(seed=0)
    env.player, env.dealer = hand("A 6"), hand("9 K")
    text = env._observe()[1]
    assert "Dealer: 9. You: A 6, soft 17." in text and "K" not in text


def test_lenient_games_accept_what_a_prompted_model_writes():
    env = make_and_reset("Blackjack", lenient=True)
    assert env.step('Sure!\n```json\n{"Thoughts": "12", "Action": " Stand"}\n```')[4]["executed_action"] == "stand"
    env = make_and_reset("EZPoints", lenient=True)
    assert env.step('{"action": 5}')[4]["executed_action"] == "5"


@pytest.mark.parametrize("game", GAMES)
def test_pictures_too_small_to_read_are_refused(game):
    with pytest.raises(ValueError, match="at least 84"):
        make(game, image_size=32)


WORDS = st.sampled_from([*"0123456789+-*/()=", "10", "11", "hit", "stand", "Hit", "fold"])
TEXTS = st.lists(WORDS.map(say) | st.text(max_size=30) | WORDS, max_size=40)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("game", GAMES)
@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, seed=st.integers(0, 10**6))
def test_whatever_is_written_the_game_goes_by_its_rules(game, lenient, texts, seed):
    def play_all():
        env = make(game, lenient=lenient)
        result = [env.reset(seed=seed)]
        for text in texts:
            result.append(env.step(text))
            _, reward, terminated, truncated, info = result[-1]
            assert reward in ((-1.0, 0.0, 1.0) if game in ("NumberLine", "Blackjack") else (-1.0, 0.0, 10.0))
            assert reward == -1.0 or info["action_is_valid"]
            if terminated or truncated:
                with pytest.raises(gymnasium.error.ResetNeeded):
                    env.step(say("stand"))
                break
        return result

    for one, other in zip(play_all(), play_all(), strict=True):
        assert (one[0]["image"] == other[0]["image"]).all() and one[0]["text"] == other[0]["text"]
        assert one[1:] == other[1:]


def test_the_seed_decides_everything_and_nothing_else_does():
    np.random.seed(0)
    first = [make(game).reset(seed=5)[0]["image"].tobytes() for game in GAMES]
    np.random.seed(1)
    assert [make(game).reset(seed=5)[0]["image"].tobytes() for game in GAMES] == first
    assert [make(game).reset(seed=6)[0]["image"].tobytes() for game in GAMES] != first
