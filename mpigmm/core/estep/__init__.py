"""The E-step: its kernels, which are different ways to compute log-densities and statistics, and the choice of one."""
