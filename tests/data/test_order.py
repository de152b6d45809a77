from collections import Counter

import torch

from anomaly_detection.data.order import BalancedIndices, ShuffledIndices


def test_every_image_is_seen_equally_often():
    indices = ShuffledIndices(10, seed=0)
    drawn = torch.cat([indices.take(4) for _ in range(15)]).tolist()
    assert Counter(drawn) == dict.fromkeys(range(10), 6)
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10))
    assert drawn[:10] != drawn[10:20]


def test_a_batch_may_be_larger_than_the_set():
    assert Counter(ShuffledIndices(3, seed=0).take(7).tolist()).most_common()[-1][1] == 2


def test_the_stream_continues_from_its_position():
    whole = ShuffledIndices(10, seed=3)
    first, rest = whole.take(17), whole.take(26)
    assert torch.equal(ShuffledIndices(10, seed=3, position=17).take(26), rest)
    assert not torch.equal(ShuffledIndices(10, seed=4).take(17), first)


def test_a_window_shuffles_within_blocks_that_lie_together():
    size, window = 64 * 20 + 5, 64 * 4
    indices = ShuffledIndices(size, seed=0, window=window)
    epochs = [indices.take(size) for _ in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in epochs)
    assert not torch.equal(*epochs)
    for start in range(0, size, window):
        blocks = {place // 64 for place in epochs[0][start : start + window].tolist()}
        assert len(blocks) <= window // 64 + 2
    assert (epochs[0][1:] - epochs[0][:-1]).abs().float().mean() > 64, "neighbours must be mixed"
    continued = ShuffledIndices(size, seed=0, position=100, window=window)
    assert torch.equal(continued.take(50), epochs[0][100:150])


def test_balanced_groups_share_a_window():
    """At any time each is read in two neighbouring blocks."""
    taken = BalancedIndices(["a"] * 640 + ["b"] * 640, seed=0, window=256).take(256).tolist()
    assert Counter(place // 640 for place in {each // 64 * 64 for each in taken}) == {0: 2, 1: 2}


def test_balanced_groups_take_turns():
    groups = ["a"] * 40 + ["b"] * 10 + ["c"] * 4
    drawn = [groups[place] for place in BalancedIndices(groups, seed=0).take(120).tolist()]
    rounds = [tuple(drawn[start : start + 3]) for start in range(0, 120, 3)]
    assert {"".join(sorted(turns)) for turns in rounds} == {"abc"}
    assert len(set(rounds)) == 6, "anyone may be first"
    seen = Counter(BalancedIndices(groups, seed=0).take(120).tolist())
    assert [seen[place] for place in range(40)] == [1] * 40, "each of the largest group once"
    assert [seen[place] for place in range(40, 50)] == [4] * 10
    assert [seen[place] for place in range(50, 54)] == [10] * 4


def test_the_balanced_stream_does_not_depend_on_how_it_is_cut():
    groups = list("abbacabcccaab")
    whole = BalancedIndices(groups, seed=5).take(50).tolist()
    parts = BalancedIndices(groups, seed=5)
    assert [place for count in (1, 7, 2, 30, 10) for place in parts.take(count).tolist()] == whole
    assert parts.position == 50
    for position in range(0, 50, 7):
        assert BalancedIndices(groups, seed=5, position=position).take(50 - position).tolist() == whole[position:]


def test_balanced_groups_of_one_size_do_not_pair_their_images():
    """Nor does every second index, or fourth, which one of several processes takes, hold one group alone."""
    groups = ["a"] * 20 + ["b"] * 20
    taken = BalancedIndices(groups, seed=0).take(400).tolist()
    pairs = {tuple(sorted(taken[start : start + 2])) for start in range(0, 400, 2)}
    assert len(pairs) > 100, "of 200 with 400 to choose from"
    for step in (2, 4):
        for rank in range(step):
            assert 0.35 < sum(place < 20 for place in taken[rank::step]) / len(taken[rank::step]) < 0.65
