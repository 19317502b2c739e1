"""Histograms and sums by position, against numpy and plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sampling.results import FALLBACK, MIXED
from validations.measure.histograms import LOG10_ESS_RATIO, LOG10_KL_ERROR, NUM_GAPS, SHARES, STARTS, TokenHistograms
from validations.measure.tokens import Tokens


def random_tokens(seed: int = 0, lengths: Sequence[int] = (400, 1, 0, 35, 3000, 7)) -> Tokens:
    rng = np.random.default_rng(seed)
    num = sum(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    row = np.repeat(np.arange(len(lengths)), lengths)
    columns = {
        "alpha": rng.random(num), "kl_error": 10 ** rng.uniform(-25, 3, num), "js": rng.random(num) * 0.69,
        "overlap_mass": rng.random(num), "ess_ratio": 10 ** rng.uniform(-9, 9, num),
        "logprob_theta": -9 * rng.random(num), "logprob_teacher": -5 * rng.random(num),
    }  # fmt: skip
    columns["kl_error"][::50], columns["kl_error"][1::50], columns["overlap_mass"][::31] = 0.0, np.inf, 1.0
    mode = rng.integers(0, 3, num).astype(np.int8)
    ids, aligned = rng.integers(0, 256, num, dtype=np.int32), np.ones(len(lengths), dtype=bool)
    floats = {name: values.astype(np.float32) for name, values in columns.items()}
    return Tokens(starts, row, np.arange(num) - starts[row], ids, mode, floats, aligned)


def histograms_of(*many: Tokens) -> TokenHistograms:
    histograms = TokenHistograms()
    for tokens in many:
        histograms.add(tokens)
    return histograms


def test_histograms_are_numpys() -> None:
    tokens = random_tokens()
    mixed = tokens.mode == MIXED
    with np.errstate(divide="ignore"):
        expected = {
            "alpha": (tokens.columns["alpha"][mixed], SHARES),
            "overlap_mass": (tokens.columns["overlap_mass"], SHARES),
            "log10_kl_error": (np.log10(tokens.columns["kl_error"][mixed]), LOG10_KL_ERROR),
            "log10_ess_ratio": (np.log10(tokens.columns["ess_ratio"][mixed]), LOG10_ESS_RATIO),
        }
    histograms = histograms_of(tokens).histograms()
    assert set(histograms) == set(expected)
    for name, (values, edges) in expected.items():
        clipped = np.clip(values.astype(np.float64), edges[0], edges[-1])  # those outside are in the outer bins
        counts, _ = np.histogram(clipped, edges)
        assert histograms[name].counts == counts.tolist(), name
        assert histograms[name].edges == edges.tolist()
        assert sum(histograms[name].counts) == len(values)


def test_tokens_that_the_teacher_expects_more() -> None:
    tokens = random_tokens()
    gap = np.maximum(tokens.columns["logprob_teacher"].astype(float) - tokens.columns["logprob_theta"], 0)
    gap[tokens.mode != MIXED] = 0
    by_id = {token: gap[tokens.token_ids == token] for token in range(256)}
    expected = sorted(by_id, key=lambda token: -by_id[token].sum())[:NUM_GAPS]
    found = histograms_of(tokens).gaps(None)
    assert [each.piece for each in found] == [f"⟨{token}⟩" for token in expected]
    assert [each.num_tokens for each in found] == [np.count_nonzero(by_id[token]) for token in expected]
    assert found[0].share == pytest.approx(by_id[expected[0]].sum() / gap.sum())
    assert found[0].mean_gap == pytest.approx(by_id[expected[0]][by_id[expected[0]] > 0].mean())


def test_means_by_position_are_those_of_a_plain_loop() -> None:
    tokens = random_tokens()
    got = histograms_of(tokens).by_position()
    assert got.starts[:33] == [*range(32), 34]
    assert sum(got.num_tokens) == len(tokens)
    assert got.stops[:-1] == got.starts[1:]
    for k, (start, stop) in enumerate(zip(got.starts, got.stops, strict=True)):
        held = [i for i in range(len(tokens)) if start <= tokens.position[i] < stop]
        mixed = [i for i in held if tokens.mode[i] == MIXED]
        alphas = [float(tokens.columns["alpha"][i]) for i in mixed]
        assert got.num_tokens[k] == len(held)
        assert got.fallback_rate[k] == pytest.approx(sum(tokens.mode[i] == FALLBACK for i in held) / len(held))
        assert got.mean_js[k] == pytest.approx(np.mean([tokens.columns["js"][i] for i in held]), rel=1e-5)
        overlap = np.mean([tokens.columns["overlap_mass"][i] for i in held])
        assert got.mean_overlap_mass[k] == pytest.approx(overlap, rel=1e-5)
        if mixed:
            assert got.mean_alpha[k] == pytest.approx(np.mean(alphas), rel=1e-5)
            assert got.sd_alpha[k] == pytest.approx(np.std(alphas), abs=1e-6)
        else:
            assert (got.mean_alpha[k], got.sd_alpha[k]) == (None, None)


def test_batches_add_up_to_the_same_as_one() -> None:
    lengths = (40, 3, 0, 500, 7)
    whole = random_tokens(3, lengths)
    rows = []
    for i in range(len(lengths)):
        held = whole.row == i
        columns = {name: values[held] for name, values in whole.columns.items()}
        starts, row = np.array([0, lengths[i]]), np.zeros(lengths[i], np.int64)
        rows.append(
            Tokens(
                starts, row, whole.position[held], whole.token_ids[held], whole.mode[held], columns, np.ones(1, bool)
            )
        )
    one, other = histograms_of(whole), histograms_of(*rows)
    assert one.histograms() == other.histograms()
    a, b = one.by_position(), other.by_position()
    assert (a.starts, a.num_tokens) == (b.starts, b.num_tokens)
    for name in ("mean_alpha", "mean_js", "fallback_rate"):
        assert getattr(a, name) == pytest.approx(getattr(b, name))
    assert one.max_fallback_rate() == pytest.approx(other.max_fallback_rate())


def test_ranges_cover_every_position_once() -> None:
    assert STARTS[0] == 0
    assert (np.diff(STARTS) > 0).all()
    assert len(STARTS) < 200
    far = random_tokens(0, (3,))
    positions = np.array([0, 1 << 20, (1 << 24) + 5])
    moved = Tokens(far.starts, far.row, positions, far.token_ids, far.mode, far.columns, far.aligned)
    assert sum(histograms_of(moved).by_position().num_tokens) == 3


def test_the_highest_fallback_rate_needs_a_hundred_tokens() -> None:
    def tokens(num_rows: int) -> Tokens:
        """Rows of two tokens, of which the second falls back in every other row."""
        made = random_tokens(1, (2,) * num_rows)
        made.mode[:] = MIXED
        made.mode[1::4] = FALLBACK
        return made

    assert histograms_of(tokens(98)).max_fallback_rate() is None
    assert histograms_of(tokens(100)).max_fallback_rate() == 0.5
    assert histograms_of(tokens(60), tokens(40)).max_fallback_rate() == 0.5
    assert TokenHistograms().max_fallback_rate() is None


def test_lengths_share_their_edges() -> None:
    histograms = TokenHistograms()
    histograms.add_lengths("eos", np.array([3, 5, 5]))
    histograms.add_lengths("length", np.array([8, 8, 0]))
    histograms.add_lengths("eos", np.array([1]))
    lengths = histograms.lengths()
    assert lengths["eos"].edges == lengths["length"].edges == [float(i) for i in range(10)]
    assert lengths["eos"].counts == [0, 1, 0, 1, 0, 2, 0, 0, 0]
    assert lengths["length"].counts == [1, 0, 0, 0, 0, 0, 0, 0, 2]
    rng = np.random.default_rng(0)
    many = rng.integers(0, 5000, 1000)
    histograms.add_lengths("eos", many)
    eos = histograms.lengths()["eos"]
    assert len(eos.counts) == 40
    assert eos.counts == np.histogram([3, 5, 5, 1, *many], eos.edges)[0].tolist()
    assert TokenHistograms().lengths() == {}


def test_a_length_that_no_list_has_costs_no_memory() -> None:
    """A dataset made elsewhere may hold a num_tokens of 2^31."""
    histograms = TokenHistograms()
    histograms.add_lengths("eos", np.array([2**31 - 1, 4]))
    assert sum(histograms.lengths()["eos"].counts) == 2


def test_grades_by_mean_alpha() -> None:
    histograms = TokenHistograms()
    assert histograms.correctness() is None
    histograms.add_grades(np.array([]), np.array([], dtype=bool))
    assert histograms.correctness() is None
    histograms.add_grades(np.array([0.05, 0.05, 0.55, 1.0, np.nan]), np.array([True, False, True, True, False]))
    histograms.add_grades(np.array([0.55]), np.array([False]))
    found = histograms.correctness()
    assert found is not None
    assert found.num_judged == [3, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert found.num_correct == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert len(found.edges) == 11


def test_what_is_not_finite_spoils_only_its_own_range() -> None:
    tokens = random_tokens(0, (200,))
    for name in ("alpha", "js", "overlap_mass", "kl_error", "ess_ratio"):
        tokens.columns[name][3] = np.nan
    tokens.columns["js"][4] = np.inf
    tokens.mode[3] = MIXED
    got = histograms_of(tokens).by_position()
    assert [k for k, mean in enumerate(got.mean_js) if mean is None] == [3, 4]
    assert (got.mean_alpha[3], got.sd_alpha[3], got.mean_overlap_mass[3]) == (None, None, None)
    assert sum(histograms_of(tokens).histograms()["overlap_mass"].counts) == 199


def test_nothing_at_all() -> None:
    histograms = histograms_of(random_tokens(0, ()), random_tokens(0, (0, 0)))
    assert histograms.by_position().starts == []
    assert sum(histograms.histograms()["alpha"].counts) == 0
