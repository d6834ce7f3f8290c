"""Whether an encoder knows anything that simple things do not: folds, baselines, probes, retrieval, the verdict."""
