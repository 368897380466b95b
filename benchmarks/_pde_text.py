"""What docs/pde-posterior.md says around its tables, and the figures that were published."""

from __future__ import annotations

# Relative L2 errors in %, mean of the test set: FunDPS with 500 and 200 steps, and its authors' run of DiffusionPDE
# (arXiv 2505.17004, table 1), noise-free.
PUBLISHED = {
    "poisson inverse": (20.47, 24.04, 21.10),
    "poisson forward": (1.99, 2.04, 4.88),
    "helmholtz inverse": (17.16, 20.07, 19.07),
    "helmholtz forward": (2.13, 2.20, 12.64),
}

TEXT = """# Fields from a few sensors

Written by `python benchmarks/pde.py`, float64. A field f of the literature's spectrum on 128 x 128 nodes, and u with
Laplace u + k^2 u = f, 0 on the boundary (Poisson: k = 0, Helmholtz: k = 1). "Inverse": f from 500 values of u at random
nodes; "forward": u from 500 values of f. Noise is relative to the root mean square of the clean data. Prior and noise
are Gaussian and the equation is linear, so that the posterior is known: "best possible" is the error of its mean, of
the same fields, which no method can beat on average. A single sample of the posterior is off by sqrt(2) = 1.414 times
that, the mean of n samples by sqrt(1 + 1/n) times: 1.013 for 39. In the forward problems the error of u is that of a
few long waves, and such factors are known to some hundredths.

All methods have the same exact prior, of the coefficient f, and the exact solver as operator. FunDPS and DiffusionPDE
were published with a learned prior of the pair (f, u) and the weights of its gradients; the rows "of the paper" have
these weights, the rows "weight tuned" the best of a tenth, once and ten times that (Helmholtz and forward: and a
hundred times), on another field. Errors are relative, in L2, of the mean of the samples and of single samples. Std
error: relative L2 error of the field of standard deviations, of all items together (of n independent draws it is about
sqrt(1 / 2n), 0.040 for 8 x 39); std ratio: its mean over the right one. Coverage: of the truth by 90 % intervals of the
samples; the one of the right Gaussian process, of the same fields, tells how much of it is the luck of few fields whose
nodes go together. Evaluations and vector-Jacobian products are of the denoiser, per sample; seconds are CPU time of one
thread for all samples, on a machine that others used.

{tables}
"""


def published(problem: str, noise: float) -> str:
    """A sentence about the published errors, which are noise-free."""
    if noise > 1e-4:
        return ""
    first, short, other = PUBLISHED[problem]
    return (
        f" Published, noise-free, learned priors: FunDPS {first} % (500 steps), {short} % (200 steps); DiffusionPDE "
        f"{other} % (2000 steps)."
    )
