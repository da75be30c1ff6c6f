"""Statistics of searches. Pure: values in, values out."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln


def expected_best(values: Sequence[float] | npt.NDArray[np.float64], sizes: Sequence[int] | npt.NDArray[np.int64],
                  *, mode: str) -> npt.NDArray[np.float64]:
    """What the best of n configs is on average, for each of some numbers n of configs: the mean over all subsets of n of the values.

    The unbiased estimator of Tang et al. (ACL 2020, arXiv 2004.13705): the i-th smallest of N values is the largest of
    C(i - 1, n - 1) of the C(N, n) subsets. That of Dodge et al. (EMNLP 2019, arXiv 1909.03004) draws with replacement and is biased
    towards the worse. Both are of configs that were drawn independently of each other.

    Args:
        values: finite; `-inf` ("max") or `inf` ("min") are not allowed, a config without a value has to be given one.
        sizes: numbers from 1 to N.
        mode: "max" or "min", whichever is better.

    Raises:
        ValueError: a size below 1 or above N, or a value that is not finite.
    """
    sign = -1.0 if mode == "min" else 1.0
    x, n = np.sort(sign * np.asarray(values, dtype=float)), np.asarray(sizes, dtype=float)
    if not np.isfinite(x).all() or (n < 1).any() or (n > len(x)).any():
        raise ValueError(f"expected_best needs finite values and sizes from 1 to {len(x)}")
    out = np.empty(len(n))
    for k, size in enumerate(n):
        i = np.arange(size, len(x) + 1)  # smaller ones are never the largest of so many
        log_share = gammaln(i) - gammaln(i - size + 1) - gammaln(size) - (
            gammaln(len(x) + 1) - gammaln(len(x) - size + 1) - gammaln(size + 1))
        out[k] = np.exp(log_share) @ x[int(size) - 1:]
    return sign * out
