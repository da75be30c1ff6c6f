"""Several studies as one comparison: the variants of all of them, side by side, paired by the seeds that they share.

Of a searched study only what stands for its variants takes part. What the studies have in common is not checked beyond the metric: that
they differ by what they are named for is the word of who puts them together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.load import SPLIT, AnalysisError, Study

if TYPE_CHECKING:
    import pandas as pd


def join(studies: Sequence[Study], name: str, *, folder: Path) -> Study:
    """One study of several, in their order; the first one's reference is the reference.

    Variants are called "study: variant" where two studies have one of the same name, and a study of a single variant by its own name then.
    Parameters that differ between the variants of all are compared.

    Args:
        folder: where the joined study's figures belong; nothing is read from there.

    Raises:
        AnalysisError: fewer than two studies, two of the same name, or studies of different metrics.
    """
    import pandas as pd

    names = [study.name for study in studies]
    if len(studies) < 2:
        raise AnalysisError(f"--together {name}: one study ({', '.join(names) or 'none'}) is nothing to put together; name at least two")
    if len(set(names)) < len(names):
        raise AnalysisError(f"--together {name}: two of the studies are called {next(n for n in names if names.count(n) > 1)}")
    metrics = {study.name: f"{study.metric} ({study.mode})" for study in studies}
    if len(set(metrics.values())) > 1:
        raise AnalysisError(f"--together {name}: the studies have different metrics: {', '.join(f'{n}: {m}' for n, m in metrics.items())}; "
                            "--metric NAME names one that all of them have")
    first = studies[0]
    every = [v for study in studies for v in study.variants]
    clash = len(set(every)) < len(every)
    labels = [{v: _label(study, v) if clash else v for v in study.variants} for study in studies]
    trials = pd.concat([_renamed(study.trials, study, label) for study, label in zip(studies, labels, strict=True)], ignore_index=True)
    if not all(study.headline()[0] == "test_acc" for study in studies):  # some are not tested: they are compared by the metric
        trials = trials.drop(columns=["test_acc", "test_loss"], errors="ignore")
    splits = any(len(study.pairs) > 1 for study in studies) and SPLIT in trials
    return Study(
        folder=folder, name=name, trials=trials, metric=first.metric, mode=first.mode, select=first.select,
        epochs=_all([_identified(study.epochs, study) for study in studies]),
        attempts=_all([_identified(study.attempts, study) for study in studies]),
        seeds=tuple(dict.fromkeys(s for study in studies for s in study.seeds)),
        variants=tuple(label[v] for study, label in zip(studies, labels, strict=True) for v in study.variants),
        reference=labels[0].get(first.reference, first.reference), compared=_compared(trials, splits=splits),
        chance=first.chance if len({study.chance for study in studies}) == 1 else None,
        pairs=("seed", SPLIT) if splits else ("seed",), chosen_by=first.chosen_by, asked=any(study.asked for study in studies),
        caution=_caution(studies))


def _label(study: Study, variant: str) -> str:
    return study.name if len(study.variants) == 1 else f"{study.name}: {variant}"


def _identified(table: "pd.DataFrame", study: Study) -> "pd.DataFrame":
    """The rows with trial ids of their own: the same training may be a trial of two studies."""
    return table.assign(trial_id=study.name + "/" + table["trial_id"].astype(str)) if len(table) else table


def _all(tables: "Sequence[pd.DataFrame]") -> "pd.DataFrame":
    import pandas as pd

    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _renamed(trials: "pd.DataFrame", study: Study, label: dict[str, str]) -> "pd.DataFrame":
    return _identified(trials, study).assign(variant=trials["variant"].map(label).astype(object), study=study.name)


def _compared(trials: "pd.DataFrame", *, splits: bool) -> tuple[str, ...]:
    """Parameters that differ between variants; those that differ within one as well were tuned or are splits."""
    names = [str(c) for c in trials.columns if str(c).startswith("param_") and not (splits and c == SPLIT)]
    within = trials.groupby("variant")[names].nunique(dropna=False).le(1).all()
    return tuple(c.removeprefix("param_") for c in names if within[c] and trials[c].nunique(dropna=False) > 1)


def _caution(studies: Sequence[Study]) -> str:
    """What must stand above the comparison: the studies whose configs nothing has confirmed."""
    biased = [study.name for study in studies if study.warning()]
    if not biased:
        return ""
    return f"Not confirmed: {', '.join(biased)}. The best of many configs, chosen on the seeds that are shown, looks better than it is."
