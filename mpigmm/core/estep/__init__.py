"""The E-step: kernels, each a way to compute log-densities and statistics, and the choice among them."""
