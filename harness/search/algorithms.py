"""The names that `[search] algorithm` may have. Nothing is imported for them.

They are those of Nevergrad's registry (1.0.12) that pass tests/test_proposer.py, which repeats a search in a new process: exactly the same
proposals, several at once, in a third of a second at most. Left out are the ones that need other packages, that propose one config at a
time (all of Nevergrad's wrappers of scipy, SPSA), that are not the same twice (the LognormalDiscrete family), that fail with the numpy of
today (whatever holds MetaModel alone), and most of the hundreds that vary one of these by a constant.
"""

ALGORITHMS: tuple[str, ...] = (
    "auto",
    # random and space-filling
    "RandomSearch", "RandomSearchPlusMiddlePoint", "LHSSearch", "HaltonSearch", "HaltonSearchPlusMiddlePoint", "ScrHaltonSearch",
    "ScrHaltonSearchPlusMiddlePoint", "HammersleySearch", "HammersleySearchPlusMiddlePoint", "ScrHammersleySearch",
    "ScrHammersleySearchPlusMiddlePoint", "RescaleScrHammersleySearch", "MetaRecentering", "MetaTuneRecentering", "MetaCauchyRecentering",
    "HullAvgMetaRecentering", "HullAvgMetaTuneRecentering",
    # (1+1), continuous and discrete
    "OnePlusOne", "OnePlusLambda", "CauchyOnePlusOne", "RLSOnePlusOne", "NoisyOnePlusOne", "OptimisticNoisyOnePlusOne",
    "DiscreteOnePlusOne", "AdaptiveDiscreteOnePlusOne", "AnisotropicAdaptiveDiscreteOnePlusOne", "PortfolioDiscreteOnePlusOne",
    "DiscreteLenglerOnePlusOne", "DiscreteLengler2OnePlusOne", "DiscreteLengler3OnePlusOne", "DiscreteLenglerHalfOnePlusOne",
    "DiscreteLenglerFourthOnePlusOne", "FastGADiscreteOnePlusOne", "DoubleFastGADiscreteOnePlusOne", "NoisyDiscreteOnePlusOne",
    "OptimisticDiscreteOnePlusOne", "PortfolioNoisyDiscreteOnePlusOne", "PortfolioOptimisticNoisyDiscreteOnePlusOne",
    "RecombiningDiscreteLenglerOnePlusOne", "RecombiningPortfolioDiscreteOnePlusOne", "RecombiningOptimisticNoisyDiscreteOnePlusOne",
    "RecombiningPortfolioOptimisticNoisyDiscreteOnePlusOne", "OnePtRecombiningDiscreteLenglerOnePlusOne",
    "TwoPtRecombiningDiscreteLenglerOnePlusOne", "RandRecombiningDiscreteLenglerOnePlusOne", "SparseDiscreteOnePlusOne",
    "SmoothDiscreteOnePlusOne", "SmoothDiscreteLenglerOnePlusOne", "SmoothRecombiningDiscreteLenglerOnePlusOne",
    # differential evolution
    "DE", "TwoPointsDE", "OnePointDE", "LhsDE", "QrDE", "MiniDE", "MiniLhsDE", "MiniQrDE", "NoisyDE", "RotationInvariantDE",
    "AlmostRotationInvariantDE", "RotatedTwoPointsDE", "ParametrizationDE", "GeneticDE", "DiscreteDE", "LSDE", "HSDE", "QODE", "QOTPDE",
    "SODE", "SPQODE", "VoronoiDE", "TinyLhsDE", "SplitDE", "SplitTwoPointsDE",
    # covariance matrix adaptation
    "CMA", "CMAbounded", "CMAsmall", "CMAstd", "CMAtuning", "CMApara", "DiagonalCMA", "SDiagonalCMA", "OldCMA", "LargeCMA", "LargeDiagCMA",
    "MicroCMA", "MilliCMA", "TinyCMA", "RescaledCMA", "MultiCMA", "TripleCMA", "PolyCMA", "MultiScaleCMA", "ECMA",
    # other evolution strategies, estimation of distributions, genetic
    "EDA", "ES", "RecES", "MixES", "RecMixES", "TBPSA", "NaiveTBPSA", "IsoEMNA", "NaiveIsoEMNA", "AnisoEMNA", "NaiveAnisoEMNA",
    "IsoEMNATBPSA", "AnisoEMNATBPSA", "cGA", "RecombiningGA", "RotatedRecombiningGA",
    # particle swarms
    "PSO", "RealSpacePSO", "QOPSO", "QORealSpacePSO", "SOPSO", "SQOPSO", "SQORealSpacePSO", "SplitPSO",
    # those that choose among the others
    "NGO", "NGOpt", "NGOpt4", "NGOpt8", "NGOpt10", "NGOpt15", "NGOpt16", "NGOpt36", "NGOpt39", "NGOptBase", "NGOptRW", "NGOptSingle16",
    "Shiwa", "NgDS", "NgIoh", "NgIoh4", "NgIoh7", "NgIoh11", "NgIoh21", "NgIohTuned", "Portfolio",
)
"""Our own first, the default."""
