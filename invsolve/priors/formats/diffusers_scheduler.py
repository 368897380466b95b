"""Schedulers of diffusers: what a network predicts, of which signals and at which times, from their options.

A scheduler's options are of three sorts: those that are read, those of its sampler (how it walks, which says nothing of
the network), and those that change what the network sees, which are known at one value only. Any other is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invsolve.errors import FileError
from invsolve.priors.learned.parameterization import Prediction, Scheduled
from invsolve.priors.learned.schedules import DDPM, Flow

_WHAT = {"epsilon": "noise", "sample": "signal", "v_prediction": "v"}
_BETAS = {"linear": "linear", "scaled_linear": "scaled linear", "squaredcos_cap_v2": "cosine"}
_STEPS = 10**6
# Schedulers whose networks see sqrt(abar) w + sqrt(1 - abar) e and the step, however their samplers walk.
_VARIANCE_PRESERVING = {
    *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep"),
    *("DPMSolverSDE", "UniPCMultistep", "DEISMultistep", "SASolver", "EulerDiscrete", "EulerAncestralDiscrete"),
    *("HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete"),
}
# Whose networks see (1 - s) w + s e and 1000 s; shifts of the schedule change where a sampler steps, not what s means.
_FLOW = {"FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM"}
_READ = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"}
_SAMPLER = {
    # where it steps
    *("timestep_spacing", "steps_offset", "set_alpha_to_one", "lambda_min_clipped", "final_sigmas_type"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "sigma_min", "sigma_max"),
    *("shift", "shift_terminal", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"),
    *("use_dynamic_shifting", "time_shift_type", "flow_shift", "interpolation_type"),
    # how
    *("solver_order", "solver_type", "algorithm_type", "lower_order_final", "euler_at_final", "skip_prk_steps"),
    *("predictor_order", "corrector_order", "predict_x0", "disable_corrector", "solver_p", "tau_func"),
    *("variance_type", "noise_sampler_seed", "stochastic_sampling", "scale_factors", "upscale_mode"),
    # what it does to its estimate of the signal
    *("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
}
_ONLY: dict[str, Any] = {
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "use_flow_sigmas": False,
    "timestep_type": "discrete",
    "invert_sigmas": False,
}


def prediction_of(given: Mapping[str, Any]) -> Prediction:
    """What the network of a scheduler predicts.

    Raises FileError for a scheduler that is not known here, or one with an option that is not, by its name.
    """
    stated = {k: v for k, v in given.items() if not k.startswith("_") and v is not None}
    name, what = str(given.get("_class_name", "")), stated.get("prediction_type", "epsilon")
    steps = stated.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 1 < steps <= _STEPS:
        raise FileError(f"load: the scheduler states an absurd number of steps: {steps!r}.")
    betas = stated.get("beta_schedule", "linear")
    kind = name.removesuffix("Scheduler")
    flow = kind in _FLOW
    known = flow or (kind in _VARIANCE_PRESERVING and what in _WHAT and betas in _BETAS)
    odd = [
        f"{k} {stated[k]!r}"
        for k in stated
        if (stated[k] != _ONLY[k] if k in _ONLY else k not in (_SAMPLER if flow else _SAMPLER | _READ))
        and not (flow and k == "num_train_timesteps")
    ]
    if odd or not known:
        raise FileError(
            f"load: a scheduler {name or 'without a name'} with prediction_type {what!r}, beta_schedule "
            f"{betas!r}{''.join(f', {text}' for text in odd)} is not known here. State `prediction`."
        )
    if flow:
        return Scheduled(what="velocity", schedule=Flow(factor=float(steps)))
    schedule = DDPM(
        steps=steps,
        betas=_BETAS[betas],  # type: ignore[arg-type]
        beta_start=stated.get("beta_start", 1e-4),
        beta_end=stated.get("beta_end", 2e-2),
    )
    return Scheduled(what=_WHAT[what], schedule=schedule)  # type: ignore[arg-type]
