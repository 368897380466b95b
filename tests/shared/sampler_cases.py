"""Every sampler, in the forms that differ."""

from __future__ import annotations

from invsolve.samplers import (
    DEIS,
    ERSDE,
    Ancestral,
    Churn,
    DPMSolver2M,
    DPMSolver3M,
    Euler,
    Heun,
    PredictorCorrector,
    SDEDPMSolver2M,
    UniPC,
)

DETERMINISTIC = [
    Euler(),
    Heun(),
    DPMSolver2M(),
    DPMSolver3M(),
    UniPC(order=1),
    UniPC(order=2),
    UniPC(order=3),
    Ancestral(eta=0.0),
    SDEDPMSolver2M(eta=0.0),
    Churn(s_churn=0.0),
    DEIS(order=1),
    DEIS(order=2, variable="sigma"),
    DEIS(order=3),
]
STOCHASTIC = [
    Ancestral(),
    Ancestral(eta=0.3),
    SDEDPMSolver2M(),
    SDEDPMSolver2M(eta=0.5),
    ERSDE(order=1),
    ERSDE(order=2),
    ERSDE(order=3),
    Churn(),
    PredictorCorrector(),
    PredictorCorrector(predictor=Euler(), corrections=2, rule="level", size=0.3),
    PredictorCorrector(predictor=Heun(), size=0.5),
]
ALL = DETERMINISTIC + STOCHASTIC
