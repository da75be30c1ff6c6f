"""analysis.stats against numbers computed by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import stats
from analysis.stats import best, noise

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


def test_wilson_by_hand() -> None:
    # z = 1.959964, z^2 = 3.841459: (0.125 + 3.841459/80 -+ 1.959964 sqrt(0.125 0.875/40 + 3.841459/6400)) / (1 + 3.841459/40)
    s = stats.share(5, 40)
    assert (s.share, s.low, s.high) == (0.125, pytest.approx(0.054595, abs=1e-6), pytest.approx(0.261121, abs=1e-6))
    assert (stats.share(0, 10).low, stats.share(0, 10).high) == (0.0, pytest.approx(3.841459 / 13.841459, abs=1e-6))
    assert stats.share(10, 10).high == 1.0 and math.isnan(stats.share(0, 0).share)


def test_arms_without_a_shared_seed_are_compared_unpaired_when_there_are_enough() -> None:
    row = paired({"base": {0: 0.1, 1: 0.2, 2: 0.3}, "new": {5: 0.4, 6: 0.5, 7: 0.6, 8: 0.7}}, "base").loc["new"]
    # variances 0.01 and 0.05/3; parts 0.01/3 and 0.05/12 = 0.0075 in all; df = 0.0075^2 / ((0.01/3)^2/2 + (0.05/12)^2/3) = 4.9592
    assert (row["n"], row["n_reference"], row["pairs"]) == (4, 3, 0)
    assert row["difference"] == pytest.approx(0.35) and row["se"] == pytest.approx(math.sqrt(0.0075))
    # t at 4.9592 degrees of freedom lies between the printed 2.570582 (5) and 2.776445 (4)
    assert 2.570582 < row["half_width"] / row["se"] < 2.59
    assert math.isnan(row["sd"])


PLACES = {"a": {0: 0.50, 1: 0.60, 2: 0.70}, "b": {0: 0.531, 1: 0.625, 2: 0.734}, "c": {0: 0.52, 1: 0.61, 2: 0.74}}


def places(values: dict[str, dict[int, float]], *, mode: str = "max", ended: dict[str, dict[str, int]] | None = None) -> pd.DataFrame:
    return best.best_set(trials(values), "test_acc", mode=mode, variants=list(values), ended=ended or {}).set_index("variant")


def test_the_set_of_the_best_by_hand() -> None:
    # b - a: 3.1, 2.5, 3.4: mean 3.0, sd 0.4583; two comparisons: t 6.205347, half 1.642: a is behind b.
    # b - c: 1.1, 1.5, -0.6 and c - a: 2, 1, 4: level
    found = places(PLACES)
    assert found["place"].to_dict() == {"a": "behind", "b": "best", "c": "level"}
    half = 6.205347 * 0.00458258 / math.sqrt(3)
    assert (found.loc["a", "rival"], found.loc["a", "low"], found.loc["a", "high"]) == (
        "b", pytest.approx(-0.03 - half, abs=1e-6), pytest.approx(-0.03 + half, abs=1e-6))
    assert best.sentence(found.reset_index(), "test_acc") == (
        "the best of 3 variants in test accuracy is one of 2, with 95 % confidence: b, c")


def test_the_set_of_the_best_turns_with_the_mode() -> None:
    found = places(PLACES, mode="min")
    assert found["place"].to_dict() == {"a": "best", "b": "behind", "c": "level"}
    assert found.loc["b", "low"] > 0


def test_who_is_no_candidate_for_the_best() -> None:
    assert set(places({v: {0: 0.1, 1: 0.2} for v in "ab"})["place"]) == {""}  # two seeds
    assert set(places({"a": PLACES["a"]})["place"]) == {""}  # one variant
    found = places(PLACES, ended={"b": {"done": 3, "infeasible": 1}})
    assert found["place"].to_dict() == {"a": "level", "b": "", "c": "best"}
    same = places({"a": {0: 0.1, 1: 0.2, 2: 0.3}, "b": {0: 0.2, 1: 0.3, 2: 0.4}, "c": {0: 0.0, 1: 0.3, 2: 0.1}})
    assert same["place"].to_dict() == {"a": "level", "b": "best", "c": "level"}  # equal differences have no spread to judge by


def test_sentences_of_the_best() -> None:
    found = places(PLACES).reset_index()
    assert best.sentence(found.assign(place=["behind", "best", "behind"]), "test_acc") == (
        "b is the best of 3 variants in test accuracy, with 95 % confidence")
    assert best.sentence(found.assign(place=["level", "best", "level"]), "test_acc").startswith(
        "which of 3 variants is the best in test accuracy cannot be told")
    assert best.sentence(found.assign(place=["behind", "best", ""]), "test_acc") == ""


def test_seed_noise_by_hand() -> None:
    # variances 0.01 (a) and 0.0003 (b)
    values = {"a": {0: 0.50, 1: 0.60, 2: 0.70}, "b": {0: 0.80, 1: 0.80, 2: 0.83}}
    found = noise.noise(trials(values), "test_acc", variants=["a", "b"], reference="a")
    assert found.sd == pytest.approx(math.sqrt((0.01 + 0.0003) / 2))
    # means 0.6 and 0.81: variance 0.02205; less (0.01 + 0.0003) / 2 / 3
    assert found.between == pytest.approx(math.sqrt(0.02205 - 0.0103 / 6))
    # differences 0.30, 0.20, 0.13
    assert found.paired == pytest.approx(0.0854400, abs=1e-6)
    # chi-square of 2 degrees of freedom: 0.0506356 and 7.3777589
    ends = pytest.approx(found.paired * math.sqrt(2 / 7.3777589)), pytest.approx(found.paired * math.sqrt(2 / 0.0506356))
    assert (found.paired_low, found.paired_high) == ends
    # chi-square of 4 degrees of freedom: 0.484419 and 11.143287
    ends = pytest.approx(found.sd * math.sqrt(4 / 11.143287)), pytest.approx(found.sd * math.sqrt(4 / 0.484419))
    assert (found.low, found.high) == ends
    # two differences to one reference, 1 degree of freedom each, count as 2 / 1.25 = 1.6: chi-square 6.505389 and 0.01828393
    two = noise.noise(trials({v: dict(zip((0, 1), seeds, strict=True)) for v, seeds in (("a", (0.5, 0.6)), ("b", (0.5, 0.7)),
                                                                                       ("c", (0.5, 0.8)))}),
                      "test_acc", variants=["a", "b", "c"], reference="a")
    assert two.paired_high / two.paired_low == pytest.approx(math.sqrt(6.505389 / 0.01828393), rel=1e-6)


def test_seeds_that_a_difference_takes_are_those_of_the_tables() -> None:
    # a paired t test at 5 % with 80 % power: 10 pairs for an effect of one sd, 34 for half of one, 199 for a fifth (Cohen 1988)
    assert [noise.seeds_needed(1.0, d) for d in (1.0, 0.5, 0.2)] == [10, 34, 199]
    assert noise.seeds_needed(0.0, 0.01) == 3 and noise.seeds_needed(0.001, 0.01) == 3 and noise.seeds_needed(1.0, 0.01) is None


def test_the_error_of_a_test_set() -> None:
    assert noise.test_set_error(0.8, 10_000) == pytest.approx(0.004)
    assert noise.test_set_error(0.9, 360) == pytest.approx(0.0158114, abs=1e-6)


def test_mcnemar_by_hand() -> None:
    # 1 against 9 of ten: 2 (1 + 10) / 1024
    assert noise.mcnemar(1, 9) == noise.mcnemar(9, 1) == pytest.approx(22 / 1024)
    assert noise.mcnemar(0, 0) == 1.0 and noise.mcnemar(5, 5) == 1.0


def test_two_networks_image_by_image() -> None:
    right = {"a0": 3, "b0": 7, "b1": 9}
    predictions = pd.DataFrame([(trial, i, 1, int(i < n)) for trial, n in right.items() for i in range(10)],
                               columns=["trial_id", "image", "label", "predicted"])
    rows = pd.DataFrame({"trial_id": ["a0", "b0", "b1"], "variant": ["a", "b", "b"], "seed": [0, 0, 1]})
    found = noise.on_images(predictions, rows, "b", "a")
    assert found is not None
    assert (found.images, found.seeds, found.only_variant, found.only_reference) == (10, 1, 4, 0)
    assert (found.difference, found.p) == (pytest.approx(0.4), pytest.approx(2 / 16))
    assert noise.image_sentence(found, "b", "a") == (
        "on 10 test images 4 are right with b alone and 0 with a alone (McNemar, exact: p = 0.12); that is about these two trained "
        "networks, not about other seeds")
    assert noise.on_images(predictions, rows, "b", "c") is None


def test_sentences_of_the_noise() -> None:
    found = noise.noise(trials({"a": {0: 0.50, 1: 0.51, 2: 0.52}, "b": {0: 0.60, 1: 0.61, 2: 0.63}}), "test_acc", variants=["a", "b"],
                        reference="a")
    # variances 1 and 2.333 points: sd 1.29; means 51.0 and 61.333: variance 53.39, less 0.5556; differences 10, 10, 11: sd 0.577
    assert noise.sentences(found, "test_acc", images=1000, mean=0.6, seeds=3) == [
        "seeds of one variant differ by 1.3 points (sd; 95 % CI 0.8 to 3.7; 6 values, 2 variants), the variants by 7.3 without that noise",
        "paired differences have an sd of 0.6 points (95 % CI 0.3 to 3.6): a true difference of 1 point takes about 5 paired seeds "
        "(3 to 106) to be shown with 80 % power",
        "the test set of 1,000 images has a standard error of its own of 1.5 points at 60.0 %, which no number of seeds lessens; that of a "
        "mean over 3 seeds is 0.7"]
