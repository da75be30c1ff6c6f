"""analysis.stats against numbers computed by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import stats

# t quantiles of printed tables, two-sided 95 %: 2, 3 and 9 degrees of freedom
T2, T3, T9 = 4.302653, 3.182446, 2.262157


def trials(values: dict[str, dict[int, float]], column: str = "test_acc") -> pd.DataFrame:
    """Finished trials from variant -> seed -> value."""
    rows = [(variant, seed, value) for variant, seeds in values.items() for seed, value in seeds.items()]
    return pd.DataFrame(rows, columns=["variant", "seed", column]).astype({"seed": "Int64"})


def paired(values: dict[str, dict[int, float]], reference: str) -> pd.DataFrame:
    return stats.paired(trials(values), "test_acc", variants=list(values), reference=reference).set_index("variant")


def test_t_quantiles_are_those_of_the_tables() -> None:
    assert stats.t_quantile(np.array([3.0, 4, 10])) == pytest.approx([T2, T3, T9], abs=1e-5)
    assert np.isnan(stats.t_quantile(np.array([0.0, 1, 2]))).all()
    # 99 % at 2 degrees of freedom
    assert float(stats.t_quantile(3, level=0.99)) == pytest.approx(9.924843, abs=1e-5)


def test_mean_and_half_width() -> None:
    s = stats.summarise([0.90, 0.92, 0.94])
    assert (s.n, s.mean, s.sd) == (3, pytest.approx(0.92), pytest.approx(0.02))
    assert s.half == pytest.approx(T2 * 0.02 / math.sqrt(3), abs=1e-7)


@pytest.mark.parametrize(("values", "n", "mean"), [([], 0, math.nan), ([0.5], 1, 0.5), ([0.4, 0.6], 2, 0.5)])
def test_no_interval_below_three_values(values: list[float], n: int, mean: float) -> None:
    s = stats.summarise(values)
    assert s.n == n
    assert s.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(s.half)


def test_values_that_are_not_finite_are_not_counted() -> None:
    s = stats.summarise([1.0, math.nan, 2.0, math.inf, 3.0, -math.inf])
    assert (s.n, s.mean, s.sd) == (3, 2.0, 1.0)


def test_equal_values_have_no_spread_in_spite_of_rounding() -> None:
    assert stats.summarise([0.3 - 0.1, 0.5 - 0.3, 0.2]).sd == 0.0


def test_by_variant_keeps_the_order_and_the_empty_ones() -> None:
    table = stats.by_variant(trials({"b": {0: 0.2, 1: 0.4}, "a": {0: 0.5}}), "test_acc", variants=["b", "none", "a"])
    assert list(table["variant"]) == ["b", "none", "a"]
    assert list(table["n"]) == [2, 0, 1]
    assert table["mean"].tolist() == pytest.approx([0.3, math.nan, 0.5], nan_ok=True)


def test_paired_difference_by_hand() -> None:
    # differences 0.01, 0.02, 0.03: mean 0.02, sd 0.01; the seeds' own spread (0.1) does not enter
    row = paired({"base": {0: 0.5, 1: 0.6, 2: 0.7}, "new": {0: 0.51, 1: 0.62, 2: 0.73}}, "base").loc["new"]
    half = T2 * 0.01 / math.sqrt(3)
    assert (row["n"], row["comparisons"]) == (3, 1)
    assert row["difference"] == pytest.approx(0.02)
    assert (row["low"], row["high"]) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-7)
    assert row["simultaneous_half_width"] == pytest.approx(row["half_width"])  # one comparison: nothing to allow for
    # t = 0.02 / (0.01 / sqrt 3) = 3.4641 with 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2) = 1 - 3.4641 / 3.74166
    assert row["p"] == pytest.approx(1 - 3.4641016 / 3.7416574, abs=1e-6)
    assert row["p_holm"] == row["p"]


def test_only_seeds_that_both_have_are_paired() -> None:
    row = paired({"base": {0: 0.5, 1: 0.6, 2: 0.7, 3: 0.1}, "new": {1: 0.61, 2: 0.73, 3: 0.12, 9: 0.99}}, "base").loc["new"]
    assert row["n"] == 3
    assert row["difference"] == pytest.approx(0.02)


def test_simultaneous_intervals_allow_for_each_comparison_that_has_one() -> None:
    table = paired({"base": {0: 0.5, 1: 0.5, 2: 0.5}, "a": {0: 0.51, 1: 0.52, 2: 0.53}, "b": {0: 0.49, 1: 0.5, 2: 0.51},
                    "two": {0: 0.6, 1: 0.61}, "none": {}}, "base")
    # two of the four have at least 3 pairs: Bonferroni takes t at 97.5 %, which is 6.2053 with 2 degrees of freedom
    assert set(table["comparisons"]) == {2}
    assert table.loc["a", "simultaneous_half_width"] == pytest.approx(6.205347 * 0.01 / math.sqrt(3), abs=1e-6)
    assert table.loc["two", ["half_width", "simultaneous_half_width", "p", "p_holm"]].isna().all()
    assert (table.loc["none", "n"], table.loc["two", "n"]) == (0, 2)
    assert table.loc["a", "p_holm"] == pytest.approx(2 * table.loc["a", "p"])
    assert table.loc["b", "p_holm"] == pytest.approx(1.0)


def test_a_reference_without_trials_gives_no_differences() -> None:
    table = paired({"base": {}, "a": {0: 0.5, 1: 0.5, 2: 0.6}}, "base")
    assert table.loc["a", "n"] == 0


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.03, 0.04 times 3, 2, 1 = 0.03, 0.06, 0.04; made monotone 0.03, 0.06, 0.06
    assert stats.holm([0.04, 0.01, math.nan, 0.03]) == pytest.approx([0.06, 0.03, math.nan, 0.06], nan_ok=True)
    assert stats.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(stats.holm([])) == 0


def said(values: dict[str, dict[int, float]], *, metric: str = "test_acc", mode: str = "max",
         ended: dict[str, dict[str, int]] | None = None) -> list[str]:
    finished = trials(values, metric)
    return stats.verdicts(finished, metric, mode=mode, variants=list(values), reference=next(iter(values)), ended=ended or {})


def test_sentence_of_a_difference_that_is_shown() -> None:
    assert said({"depth=1": {0: 0.5, 1: 0.6, 2: 0.7}, "depth=3": {0: 0.531, 1: 0.625, 2: 0.734}}) == [
        # differences 3.1, 2.5, 3.4: mean 3.0, sd 0.4583, half 1.138
        "depth=3 beats depth=1 by 3.0 points of test accuracy (95 % CI 1.9 to 4.1; 3 paired seeds)"]


def test_sentence_of_a_worse_variant_turns_the_interval_with_the_words() -> None:
    assert said({"depth=1": {0: 0.531, 1: 0.625, 2: 0.734}, "depth=3": {0: 0.5, 1: 0.6, 2: 0.7}}) == [
        "depth=3 is worse than depth=1 by 3.0 points of test accuracy (95 % CI 1.9 to 4.1; 3 paired seeds)"]


def test_sentence_when_the_interval_includes_zero() -> None:
    assert said({"a": {0: 0.5, 1: 0.5, 2: 0.5}, "b": {0: 0.49, 1: 0.51, 2: 0.53}}) == [
        "no difference shown: b is ahead of a by 1.0 points of test accuracy (95 % CI −4.0 to 6.0; 3 paired seeds)"]


def test_less_loss_is_better() -> None:
    loss = {"a": {0: 1.0, 1: 1.1, 2: 1.2}, "b": {0: 0.5, 1: 0.61, 2: 0.69}}
    # differences -0.5, -0.49, -0.51: sd 0.01
    assert said(loss, metric="val_loss", mode="min") == [
        "b beats a by 0.5 of validation loss (95 % CI 0.475 to 0.525; 3 paired seeds)"]


def test_what_several_comparisons_take_back() -> None:
    base = dict.fromkeys(range(3), 0.5)
    sentences = said({"base": base, "a": {0: 0.51, 1: 0.52, 2: 0.518}, "b": {0: 0.7, 1: 0.701, 2: 0.702}, "c": {0: 0.48, 1: 0.52, 2: 0.5}})
    # b: differences 20.0, 20.1, 20.2: sd 0.1, half 0.248 alone and 0.442 with two others
    assert sentences[0] == ("b beats base by 20.1 points of test accuracy (95 % CI 19.9 to 20.3, 19.7 to 20.5 over 3 comparisons together; "
                            "3 paired seeds)")
    # a: differences 1.0, 2.0, 1.8: mean 1.6, sd 0.529, half 1.314 alone and 2.337 (t 7.649) with two others
    assert sentences[1] == ("a is ahead of base by 1.6 points of test accuracy (95 % CI 0.3 to 2.9; 3 paired seeds), but not once "
                            "3 comparisons are allowed for (−0.7 to 3.9)")
    assert sentences[2].startswith("no difference shown: c is level with base in test accuracy (95 % CI −5.0 to 5.0")


def test_few_seeds_and_equal_differences_get_no_interval() -> None:
    assert said({"a": {0: 0.5}, "b": {0: 0.6}}) == [
        "b is ahead of a by 10.0 points of test accuracy (n = 1 paired seed, too few for an interval)"]
    assert "n = 2 paired seeds, too few" in said({"a": {0: 0.5, 1: 0.5}, "b": {0: 0.6, 1: 0.4}})[0]
    assert said({"a": {0: 0.5}, "b": {1: 0.6}}) == ["b and a cannot be compared: no seed has a finished trial of both"]
    assert "no spread to take an interval from" in said({"a": {0: 0.1, 1: 0.2, 2: 0.3}, "b": {0: 0.2, 1: 0.3, 2: 0.4}})[0]


BASE, BETTER = {0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.531, 1: 0.625, 2: 0.734}
SHOWN = "by 3.0 points of test accuracy"


def test_a_variant_that_mostly_diverged_beats_nobody() -> None:
    # the three seeds that are left are 3.0 points ahead, the interval is 1.9 to 4.1; the other five of eight diverged
    ended = {"a": {"done": 8}, "b": {"done": 3, "infeasible": 5}}
    assert said({"a": BASE, "b": BETTER}, ended=ended) == [
        f"b is ahead of a {SHOWN} among the seeds that did not diverge (95 % CI 1.9 to 4.1; 3 paired seeds); "
        "5 of its 8 seeds diverged and are left out"]


def test_nor_does_a_variant_beat_a_reference_that_mostly_diverged() -> None:
    ended = {"a": {"done": 3, "infeasible": 1}, "b": {"done": 4}}
    assert said({"a": BASE, "b": BETTER}, ended=ended) == [
        f"b is ahead of a {SHOWN} among the seeds that did not diverge (95 % CI 1.9 to 4.1; 3 paired seeds); "
        "1 of the 4 seeds of a diverged and is left out"]
    assert said({"a": BETTER, "b": BASE}, ended=ended)[0].startswith(f"b is behind a {SHOWN} among the seeds that did not diverge (95")


def test_seeds_without_a_value_are_said_on_both_sides() -> None:
    ended = {"a": {"done": 3, "infeasible": 5}, "b": {"done": 3, "infeasible": 2, "failed": 1, "lost": 2}}
    assert said({"a": BASE, "b": BASE}, ended=ended)[0].endswith(
        "; 2 of its 8 seeds diverged, 1 failed and 2 were lost; these 5 are left out; 5 of the 8 seeds of a diverged and are left out")


@pytest.mark.parametrize(("counts", "note"), [
    ({"done": 3}, ""), ({"done": 3, "failed": 0}, ""),
    ({"done": 3, "failed": 1}, "; 1 of its 4 seeds failed and is left out"),
    ({"done": 3, "failed": 2}, "; 2 of its 5 seeds failed and are left out"),
    ({"done": 3, "lost": 1}, "; 1 of its 4 seeds was lost and is left out"),
    ({"done": 3, "lost": 2}, "; 2 of its 5 seeds were lost and are left out"),
    ({"done": 3, "unfinished": 1}, "; 1 of its 4 seeds is not finished and is left out"),
    ({"done": 3, "unfinished": 5}, "; 5 of its 8 seeds are not finished and are left out"),
    ({"done": 3, "lost": 1, "failed": 1}, "; 1 of its 5 seeds failed and 1 was lost; these 2 are left out")])
def test_seeds_that_failed_are_no_verdict_on_the_variant_and_are_said(counts: dict[str, int], note: str) -> None:
    told = f"beats a {SHOWN} (95 % CI 1.9 to 4.1; 3 paired seeds)"
    assert said({"a": BASE, "b": BETTER}, ended={"a": {"done": 3}, "b": counts}) == [f"b {told}{note}"]


def test_why_two_variants_cannot_be_compared() -> None:
    assert said({"a": BASE, "{b}": {}}, ended={"a": {"done": 3}, "{b}": {"infeasible": 3}}) == [
        "{b} and a cannot be compared: no seed has a finished trial of both; "
        "3 of the 3 seeds of {b} diverged or could not be built and are left out"]


def test_other_sentences_keep_to_the_seeds_that_did_not_diverge() -> None:
    ended = {"a": {"done": 3}, "b": {"done": 3, "infeasible": 5}}
    scope, note = "among the seeds that did not diverge", "; 5 of its 8 seeds diverged and are left out"
    assert said({"a": dict.fromkeys(range(3), 0.5), "b": {0: 0.49, 1: 0.51, 2: 0.53}}, ended=ended) == [
        f"no difference shown: b is ahead of a by 1.0 points of test accuracy {scope} (95 % CI −4.0 to 6.0; 3 paired seeds){note}"]
    assert said({"a": {0: 0.5}, "b": {0: 0.6}}, ended=ended) == [
        f"b is ahead of a by 10.0 points of test accuracy {scope} (n = 1 paired seed, too few for an interval){note}"]


def test_endings_are_counted_by_variant() -> None:
    frame = pd.DataFrame({"variant": ["a", "b", "b", "b"], "status": ["done", "infeasible", "done", "infeasible"]})
    assert stats.endings(frame) == {"a": {"done": 1}, "b": {"infeasible": 2, "done": 1}}


def test_one_variant_is_described_alone() -> None:
    assert said({"a": {0: 0.9, 1: 0.92, 2: 0.94}}) == [
        "a: test accuracy 92.0 % (95 % CI 87.0 to 97.0; 3 seeds); no other variant to compare with"]
    assert said({"a": {0: 0.9}}) == ["a: test accuracy 90.0 % (n = 1, too few for an interval); no other variant to compare with"]
    assert said({"a": {0: 0.9}}, ended={"a": {"done": 1, "infeasible": 7}})[0].endswith(
        "no other variant to compare with; 7 of its 8 seeds diverged and are left out")


def test_numbers_for_reading() -> None:
    assert stats.show(0.9234, "val_acc") == "92.3"
    assert stats.show(-0.0001, "val_acc") == "0.0"
    assert stats.show(-0.5, "val_loss") == "−0.5"
    assert stats.show(math.nan, "val_acc") == "–"
    assert stats.show_with_half(0.1234, 0.00456, "val_loss") == "0.123 ± 0.005"
    assert stats.show_with_half(0.97, math.nan, "test_acc") == "97.0"
    assert stats.words("val_acc") == "validation accuracy"
    assert stats.words("dice_score") == "dice_score"


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_what_they_say(n: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.9, 0.01, (20_000, n))
    half = stats.t_quantile(n) * x.std(axis=1, ddof=1) / math.sqrt(n)
    assert 0.94 < float((np.abs(x.mean(axis=1) - 0.9) <= half).mean()) < 0.96
