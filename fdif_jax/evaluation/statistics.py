"""Statistics of a few-shot study: the Dice of several initialisations, and how sure their differences are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fdif_jax.evaluation.scoring import RESAMPLES, mean_defined, middle

LEARNT = 0.1
"""Mean Dice below which a class counts as not learnt: training got stuck on the others."""


def mean_of_cases(dice: Mapping[str, float]) -> float:
    """Mean of the Dice of every case; NaN if no case has a foreground."""
    return float(mean_defined(np.array(list(dice.values()))))


@dataclass(frozen=True)
class Result:
    """What one fine-tuning came to."""

    init: str  # what it began with
    cases: int  # labelled cases it was trained on
    seed: int  # what drew those cases and everything else
    # mean foreground Dice of each validation case by its name; NaN where a case has no foreground
    dice: Mapping[str, float]
    curve: Sequence[tuple[int, float]] = ()  # the learning curve: step and mean validation Dice
    # mean Dice of each class; NaN where it is nowhere
    classes: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean Dice over the validation cases."""
        return mean_of_cases(self.dice)

    @property
    def stuck(self) -> bool:
        """Whether a class was not learnt: its mean Dice is below `LEARNT`."""
        return any(dice < LEARNT for dice in self.classes.values())

    def steps_to(self, goal: float) -> float:
        """The first measured step at which the learning curve is at ``goal`` or above; infinite if it never is."""
        return min((float(step) for step, dice in self.curve if dice >= goal), default=math.inf)


@dataclass(frozen=True)
class Difference:
    """A paired difference in mean Dice, over the seeds that both sides have."""

    mean: float  # the difference
    interval: tuple[float, float]  # its 95 % interval over seeds and validation cases, `paired_interval`
    over_cases: tuple[float, float]  # the same for these very seeds: only the validation cases are drawn anew
    seeds: int  # how many there are


@dataclass(frozen=True)
class Summary:
    """The results of one initialisation at one number of labelled cases."""

    init: str  # the initialisation
    cases: int  # labelled cases
    dice: Mapping[int, float]  # mean Dice by seed
    mean: float  # over the seeds
    deviation: float  # standard deviation over the seeds (of a sample: n - 1); NaN for one
    difference: Difference | None  # to the baseline; None for the baseline itself and where no seed is common
    # by seed, the fraction of the baseline's steps after which the learning curve is where the baseline's ends;
    # infinite where it never is; of the seeds that both have curves of
    reached: Mapping[int, float]
    stuck: int  # seeds of which a class was not learnt


def summarise(results: Sequence[Result], baseline: str) -> list[Summary]:
    """A summary for every number of cases and initialisation that there are results of, in this order.

    Initialisations are in that of their first results; all are compared with the ``baseline``.
    """
    groups: dict[tuple[int, str], list[Result]] = {}
    inits = list(dict.fromkeys(result.init for result in results))
    for result in sorted(results, key=lambda r: (r.cases, inits.index(r.init), r.seed)):
        groups.setdefault((result.cases, result.init), []).append(result)
    return [
        _summary(group, groups.get((cases, baseline), []) if init != baseline else [])
        for (cases, init), group in groups.items()
    ]


def _summary(group: Sequence[Result], baseline: Sequence[Result]) -> Summary:
    means = [result.mean for result in group]
    return Summary(
        init=group[0].init,
        cases=group[0].cases,
        dice={result.seed: result.mean for result in group},
        mean=float(np.mean(means)),
        deviation=float(np.std(means, ddof=1)) if len(means) > 1 else np.nan,
        difference=compare(group, baseline),
        reached=_reached(group, baseline),
        stuck=sum(result.stuck for result in group),
    )


def _reached(group: Sequence[Result], baseline: Sequence[Result]) -> dict[int, float]:
    ends = {result.seed: result.curve[-1] for result in baseline if result.curve}
    return {
        result.seed: result.steps_to(ends[result.seed][1]) / ends[result.seed][0]
        for result in group
        if result.curve and result.seed in ends
    }


def compare(group: Sequence[Result], baseline: Sequence[Result]) -> Difference | None:
    """How much better one group of results is than another, of the same seeds and cases; None if no seed is common.

    Of a seed both were trained on the same cases, and they are judged on the same validation cases: the differences
    are taken case by case.
    """
    ours, theirs = ({result.seed: result.dice for result in side} for side in (group, baseline))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    names = list(theirs[seeds[0]])
    differences = np.array(
        [[ours[s].get(n, np.nan) - theirs[s].get(n, np.nan) for n in names] for s in seeds]
    )
    # A case's mean over the seeds is one value a case: an interval of a single row is over cases alone.
    return Difference(
        mean=float(mean_defined(differences.ravel())),
        interval=paired_interval(differences),
        over_cases=paired_interval(mean_defined(differences)[None]),
        seeds=len(seeds),
    )


def paired_interval(differences: np.ndarray, *, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of paired differences ``(seeds, cases)``, over both at once.

    The same validation cases are judged for every seed, and what one seed's run does well it may do well in all of
    them: the differences are not independent, and drawing them one by one would give too narrow an interval. So rows
    and columns are each drawn with replacement, and a resample's mean is that of the sub-matrix they make. Source: Owen
    2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), arXiv 0712.1111. Of few seeds no resampling can
    tell how much further ones would differ: of three, the interval is still rather too narrow than too wide.

    NaN, where a difference is not defined, is left out; both bounds are NaN where nothing is defined.
    """
    rng = np.random.default_rng(0)
    # How often each row and each column is drawn, (resamples, n): the same as drawing them, without the copies.
    rows, columns = (rng.multinomial(n, np.full(n, 1 / n), resamples) for n in differences.shape)
    defined = ~np.isnan(differences)
    total, count = (
        ((rows @ values) * columns).sum(1) for values in (np.where(defined, differences, 0.0), defined)
    )
    return middle(total[count > 0] / count[count > 0])
