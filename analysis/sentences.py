"""All that is said of a study in words, in the order in which it is to be read: for the terminal, the results table and the report."""

from typing import TYPE_CHECKING

from analysis import stats, winners
from analysis.load import AnalysisError, Study
from analysis.stats import best, noise

if TYPE_CHECKING:
    import pandas as pd


def of_study(study: Study) -> list[str]:
    """The comparison with the reference (the largest gain first), the set of the best, the search with its winner's curse, then seed noise
    and the test set. Only the search where no trial is finished.

    Raises:
        AnalysisError: trials are no replicates of each other.
    """
    searched = [] if study.search is None else winners.sentences(study.search, study.metric, mode=study.mode, variants=study.variants)
    if not (study.trials["status"] == "done").any():
        return searched
    return [*comparison(study), *standings(study), *searched, *spread(study)]


def comparison(study: Study) -> list[str]:
    """A sentence for each variant against the reference."""
    column, mode = study.headline()
    return stats.verdicts(study.done(), column, mode=mode, variants=study.variants, reference=study.reference,
                          ended=stats.endings(study.trials), by=study.pairs)


def standings(study: Study) -> list[str]:
    """Which variants may be the best; nothing where configs were chosen on the values that would decide it."""
    if study.warning():
        return []
    column, mode = study.headline()
    places = best.best_set(study.done(), column, mode=mode, variants=study.variants, ended=stats.endings(study.trials), by=study.pairs)
    text = best.sentence(places, column)
    return [text] if text else []


def spread(study: Study) -> list[str]:
    """Seed noise against effect; the test set's own error, and single networks image by image, where the predictions are there."""
    column, _ = study.headline()
    done = study.done()
    found = noise.noise(done, column, variants=study.variants, reference=study.reference, by=study.pairs)
    rows = stats.by_variant(done, column, variants=study.variants, by=study.pairs)
    known = rows.dropna(subset=["mean"]).sort_values("mean")
    predictions = _predictions(study) if column == "test_acc" else None
    if predictions is None or known.empty:
        return noise.sentences(found, column)
    images = int(predictions.groupby("trial_id").size().max())
    out = noise.sentences(found, column, images=images, mean=float(known["mean"].iloc[-1]), seeds=int(known["n"].iloc[-1]))
    if len(study.variants) == 2 and rows["n"].max() < stats.MIN_N:
        other = next(v for v in study.variants if v != study.reference)
        pair = noise.on_images(predictions, done, other, study.reference)
        out += [text] if pair is not None and (text := noise.image_sentence(pair, other, study.reference)) else []
    return out


def _predictions(study: Study) -> "pd.DataFrame | None":
    """What the study's trials said of the test images; None where nobody kept it."""
    try:
        predictions = study.predictions()
    except AnalysisError:  # the figure of the confusions says so
        return None
    return predictions if len(predictions) else None
