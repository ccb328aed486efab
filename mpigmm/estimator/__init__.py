"""scikit-learn's face on the engine: `mpigmm.GaussianMixture`."""
