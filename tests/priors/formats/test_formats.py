"""Other people's weight files: networks against the programs that the layouts come from, and files that are refused."""

from __future__ import annotations

import hashlib
import inspect
import json
import pickle
import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file

import invsolve as iv
from invsolve.errors import FileError, InputError, InputTypeError
from invsolve.priors import DDPM, EDM, VP, Flow, Scheduled
from invsolve.priors.formats.adm import ADMConfig, ADMLayout, ADMNetwork
from invsolve.priors.formats.base import count
from invsolve.priors.formats.diffusers import DiffusersLayout, network_config
from invsolve.priors.formats.diffusers_network import Called, DiffusersConfig, make_unet
from invsolve.priors.formats.diffusers_scheduler import _FLOW, _VARIANCE_PRESERVING, prediction_of
from invsolve.priors.formats.edm import EDMLayout
from invsolve.priors.formats.edm_network import EDMConfig, EDMNetwork
from invsolve.priors.networks.weights import key_differences


def shapes(network):
    return {k: tuple(v.shape) for k, v in network.state_dict().items()}


def filled(network):
    """Weights that any program can compute: 0.1 sin(0.7 j + i) for entry j of the i-th tensor by name."""
    state = {}
    for i, (key, value) in enumerate(sorted(network.state_dict().items())):
        wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 0.7 + i).reshape(value.shape)
        state[key] = (
            value if key.endswith("resample_filter") else ((3.0 if key.endswith("freqs") else 0.1) * wave).float()
        )
    network.load_state_dict(state)
    return network.eval()


def waves(channels, size):
    index = torch.arange(2 * channels * size**2, dtype=torch.float64)
    return torch.cos(0.3 * index + 1).reshape(2, channels, size, size).float()


EDM_FACTS = {
    "ADM": (
        dict(
            resolution=16,
            inside=2,
            outside=2,
            stem=32,
            widths=(32, 64),
            attention=(False, True),
            blocks=1,
            waves=32,
            embedding=128,
            adm=True,
        ),
        148,
        "cd8707af5f108787",
        (-0.147636876, -0.0768583342, 0.0358964652, -0.0192914233, 0.0201019309),
    ),
    "ADM with heads": (
        dict(
            resolution=8,
            inside=1,
            outside=1,
            stem=128,
            widths=(128,),
            attention=(True,),
            blocks=1,
            waves=128,
            embedding=512,
            adm=True,
            augment=9,
        ),
        89,
        "c3c60cfb3714ccdc",
        (0.0524051487, -0.0178726055, -0.118399628, -0.0531216711, -0.0175057482),
    ),
    "DDPM++": (
        dict(
            resolution=16,
            inside=1,
            outside=1,
            stem=16,
            widths=(32, 16),
            attention=(False, True),
            blocks=2,
            waves=16,
            embedding=64,
            adm=False,
        ),
        198,
        "22e3bad7427abc14",
        (-0.0404580086, -0.00748578133, 0.00305617601, 0.0256616399, 0.00375281041),
    ),
    "NCSN++": (
        dict(
            resolution=16,
            inside=3,
            outside=3,
            stem=16,
            widths=(16, 32),
            attention=(False, True),
            blocks=1,
            waves=32,
            embedding=64,
            adm=False,
            residual=True,
            fourier=True,
            taps=4,
        ),
        150,
        "8a8176a93c1ab2d5",
        (0.0103072021, 0.0613938309, 0.101093352, 0.00283221717, 0.0611206666),
    ),
}
BASE = dict(
    block_out_channels=(32, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
DIFFUSERS_FACTS = {
    "as the first ones": (
        BASE
        | dict(
            layers_per_block=2,
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
        ),
        208,
        "f3baf23057441c6b",
        (0.200066209, -0.147718102, -0.0668591708, -0.040744707, -0.124181934),
    ),
    "residual steps": (
        dict(
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            resnet_time_scale_shift="scale_shift",
            downsample_type="resnet",
            upsample_type="resnet",
            block_out_channels=(32, 32, 64),
            down_block_types=("AttnDownBlock2D", "ResnetDownsampleBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D"),
        ),
        204,
        "182b6406bf19f90a",
        (0.0279131755, -0.158125728, -0.147078410, 0.00371960551, -0.0216382481),
    ),
    "odd options": (
        dict(
            in_channels=2,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            mid_block_scale_factor=1.4,
            attn_norm_num_groups=4,
            center_input_sample=True,
        ),
        114,
        "8e32241aeae33b02",
        (-0.0728365406, -0.109394744, -0.0361962058, -0.0614073947, -0.0577248447),
    ),
}


def unet2d(**options):
    """Of diffusers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        return pytest.importorskip("diffusers").UNet2DModel(**options)


def check_facts(network, channels, size, times, tensors, names, outputs, call=lambda network: network):
    """Number, names and shapes of the tensors, and outputs, as another program gave them for the same weights."""
    lines = "\n".join(f"{k} {s}" for k, s in sorted(shapes(network).items()))
    assert len(shapes(network)) == tensors and hashlib.blake2b(lines.encode(), digest_size=8).hexdigest() == names
    with torch.no_grad():
        found = call(filled(network))(waves(channels, size), torch.tensor(times)).flatten()
    found = found[:: len(found) // 5][:5]
    # a few thousand roundings of numbers of size 1, in another order
    assert torch.allclose(found, torch.tensor(outputs), atol=1e-6)


@pytest.mark.parametrize("name", EDM_FACTS)
def test_edm_networks_are_those_of_the_program(name):
    """Facts: models/unets.py of InverseBench (MIT), the networks of NVlabs' EDM, in torch 2.14 on a CPU."""
    options, tensors, names, outputs = EDM_FACTS[name]
    config = EDMConfig(**options)
    network = EDMNetwork(config)
    check_facts(network, config.inside, config.resolution, [-1.3, 0.7], tensors, names, outputs)
    assert EDMConfig.of(shapes(network)) == config


@pytest.mark.parametrize("name", DIFFUSERS_FACTS)
def test_diffusers_networks_are_those_of_the_program(name):
    """Facts: UNet2DModel of diffusers 0.42.1 in torch 2.14 on a CPU."""
    options, tensors, names, outputs = DIFFUSERS_FACTS[name]
    pytest.importorskip("diffusers")
    config = DiffusersConfig(time_embedding_dim=4 * options["block_out_channels"][0], **options)
    network = make_unet(config).to_empty(device="cpu")
    check_facts(network, config.in_channels, 16, [3.0, 700.5], tensors, names, outputs, Called)


ADM_CASES = {
    "residual steps": ({}, {"head_channels": 32}),
    "two blocks, three levels": (
        {"channel_mult": (1, 1, 2), "num_res_blocks": 2, "out_channels": 3},
        {"head_channels": 32},
    ),
    "convolutions, shift only": (
        {"resblock_updown": False, "use_scale_shift_norm": False, "num_head_channels": -1, "num_heads": 4},
        {"heads": 4},
    ),
    "another order": (
        {"use_new_attention_order": True, "num_head_channels": 16},
        {"head_channels": 16, "split": "qkv first"},
    ),
    "one level": ({"channel_mult": (2,), "attention_resolutions": {1}}, {"head_channels": 32}),
}


def guided_diffusion(**options):
    """azula carries OpenAI's network as it was published."""
    unet = pytest.importorskip("azula.plugins.adm._src.unet")
    base = dict(
        image_size=32,
        in_channels=3,
        out_channels=6,
        model_channels=32,
        num_res_blocks=1,
        attention_resolutions={2},
        channel_mult=(1, 2),
        num_head_channels=32,
        use_scale_shift_norm=True,
        resblock_updown=True,
    )
    return unet.UNetModel(**(base | options)).eval()


@pytest.mark.parametrize("name", ADM_CASES)
def test_adm_networks_are_those_of_the_program(name, tmp_path):
    options, said = ADM_CASES[name]
    network = filled(guided_diffusion(**options))
    torch.save(
        {f"model.{k}": v for k, v in network.state_dict().items()}, tmp_path / "adm.pt"
    )  # InverseBench adds "model."
    prior = iv.priors.load(tmp_path / "adm.pt", shape=(3, 16, 16), layout=ADMLayout(**said))
    x, times = waves(3, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        want = network(x, times)
        assert torch.allclose(prior.network(x, times), want, atol=1e-6)
    level = prior.prediction.schedule.sigma(times)
    sigma, alpha = level.view(-1, 1, 1, 1).float(), (1 + level**2).rsqrt().view(-1, 1, 1, 1).float()
    assert torch.allclose(
        prior.denoise(x / alpha, level), x / alpha - sigma * want[:, :3], atol=1e-5 * float(level.max())
    )
    assert prior.card == {"file": "adm.pt", "layout": "adm"} and prior.prediction == Scheduled(
        what="noise", schedule=DDPM()
    )


def test_counts_of_published_networks():
    """Parameters and tensors that the published files have; nothing is allocated."""
    with torch.device("meta"):
        mri = EDMNetwork(
            EDMConfig(
                resolution=320,
                inside=2,
                outside=2,
                stem=128,
                widths=(128, 128, 128, 256, 256),
                attention=(False,) * 5,
                blocks=1,
                waves=128,
                embedding=512,
                adm=True,
            )
        )
        square = EDMNetwork(
            EDMConfig(
                resolution=128,
                inside=1,
                outside=1,
                stem=128,
                widths=(128, 128, 128, 256, 256),
                attention=(False, False, False, True, False),
                blocks=1,
                waves=128,
                embedding=512,
                adm=True,
            )
        )
        faces = ADMNetwork(
            ADMConfig(
                inside=3,
                outside=6,
                stem=128,
                widths=(128, 128, 256, 256, 512, 512),
                attention=(False,) * 4 + (True, False),
                blocks=1,
                waves=128,
                embedding=512,
                scaled=True,
                residual=True,
                layout=ADMLayout(),
            )
        )
    pytest.importorskip("diffusers")
    cifar = make_unet(
        DiffusersConfig(
            time_embedding_dim=512,
            block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
        )
    )
    everything = {
        n: sum(v.numel() for v in net.state_dict().values())
        for n, net in (("mri", mri), ("faces", faces), ("cifar", cifar))
    }
    assert everything == {"mri": 26_002_114, "faces": 93_563_910, "cifar": 35_746_307}
    assert [len(net.state_dict()) for net in (mri, faces, cifar)] == [304, 362, 328]
    assert sum(p.numel() for p in square.parameters()) == 26_790_785


def deepinv():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deepinv's own imports
        import deepinv

    return deepinv.models


def randomised(network):
    torch.manual_seed(0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return network.eval()


EDM_OF_DEEPINV = {
    "ADM": lambda m: m.ADMUNet(
        img_resolution=8,
        in_channels=2,
        out_channels=2,
        model_channels=128,
        num_blocks=1,
        channel_mult=(1, 1),
        attn_resolutions=(4,),
        pretrained=None,
        pixel_std=0.5,
    ),
    "NCSN++": lambda m: m.NCSNpp(
        img_resolution=8,
        model_channels=128,
        num_blocks=1,
        channel_mult=(1, 1),
        attn_resolutions=(4,),
        pretrained=None,
        pixel_std=0.5,
    ),
    "DDPM++": lambda m: m.NCSNpp(
        model_type="ddpm",
        img_resolution=8,
        in_channels=1,
        out_channels=1,
        model_channels=128,
        num_blocks=1,
        channel_mult=(1, 1),
        attn_resolutions=(4,),
        augment_dim=0,
        pretrained=None,
        pixel_std=0.5,
    ),
}


@pytest.mark.parametrize("name", EDM_OF_DEEPINV)
@pytest.mark.parametrize("form", ["pt", "inversebench", "safetensors"])
def test_edm_files_are_the_same_denoiser(name, form, tmp_path):
    """Against deepinv's networks, whose names are the same (from 128 channels on: theirs has 32 groups always)."""
    network = randomised(EDM_OF_DEEPINV[name](deepinv()))
    path, state = tmp_path / f"file.{form}", network.state_dict()
    if form == "safetensors":
        save_file(state, path, metadata={"format": "pt"})
    elif form == "pt":
        torch.save(state, path)
    else:
        other = {f"model.{k}": torch.zeros_like(v) for k, v in state.items()}
        torch.save(
            {
                "net": other,
                "ema": {f"model.{k}": v for k, v in state.items()},
                "optimizer": {"state": {0: 1}},
                "step": 7,
            },
            path,
        )
    prior = iv.priors.load(path)
    n = state["enc.8x8_conv.weight"].shape[1]
    x, level = torch.randn(2, n, 8, 8), torch.tensor([0.1, 5.0])
    given = x[:, 0] if n == 1 else x
    with torch.no_grad():
        want = network(x, level)
    assert prior.shape == ((8, 8) if n == 1 else (n, 8, 8)) and prior.prediction == EDM(sigma_data=0.5)
    assert torch.allclose(prior.denoise(given, level), want[:, 0] if n == 1 else want, atol=1e-6)
    assert prior.sigma_range == (0.002, 80.0) and prior.dtype == torch.float32
    double = prior.to(dtype=torch.float64)
    assert torch.allclose(double.denoise(given.double(), level).float(), prior.denoise(given, level), atol=1e-5)
    assert float((prior.denoise(given, 1e-6) - given).abs().max()) < 1e-4  # D is the identity where there is no noise
    if n == 2:
        both = iv.priors.load(path, kind="complex", unit=10.0, offset=1.0)
        z = torch.complex(x[:, 0], x[:, 1])
        assert both.shape == (8, 8) and torch.allclose(
            both.denoise(1 + 10 * z, 10 * level), 1 + 10 * torch.complex(want[:, 0], want[:, 1]), atol=1e-4
        )


def test_diffunet_of_deepinv_has_the_keys_of_adm():
    with torch.device("meta"):
        network = deepinv().DiffUNet(pretrained=None)
    found = {k: s for k, s in shapes(network).items() if not k.startswith("sqrt_")}
    plan = ADMLayout().blueprint(found, {})
    assert key_differences(shapes(plan.network), found) == "" and plan.multiple == 32


SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "trained_betas": None,
}


def folder(tmp_path, scheduler=SCHEDULER, old=False, suffix="bin", config=None, drop=(), state=None):
    """A folder of diffusers with the first network of the facts."""
    options = (
        {
            "sample_size": 16,
            "_class_name": "UNet2DModel",
            "_diffusers_version": "0.0.1",
            "act_fn": "silu",
            "dropout": 0.0,
        }
        | DIFFUSERS_FACTS["as the first ones"][0]
        | (config or {})
    )
    network = filled(unet2d(**DIFFUSERS_FACTS["as the first ones"][0]))
    state = dict(network.state_dict()) if state is None else state
    if old:
        for new, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            state = {k.replace(f".{new}.", f".{name}."): v for k, v in state.items()}
    unet = tmp_path / "unet"
    unet.mkdir()
    path = unet / f"diffusion_pytorch_model.{suffix}"
    torch.save(state, path) if suffix == "bin" else save_file(state, path)
    if "config" not in drop:
        (unet / "config.json").write_text(json.dumps(options))
    if scheduler is not None:
        (tmp_path / "scheduler").mkdir()
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return tmp_path, Called(network)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_diffusers_folders(tmp_path, old, suffix):
    path, network = folder(tmp_path, old=old, suffix=suffix)
    x, level = waves(3, 16), DDPM().sigma(torch.tensor([3.0, 700.5], dtype=torch.float64))
    sigma, alpha = level.view(-1, 1, 1, 1).float(), (1 + level**2).rsqrt().view(-1, 1, 1, 1).float()
    with torch.no_grad():
        want = x / alpha - sigma * network(x, torch.tensor([3.0, 700.5]))
    for name in (path, path / "unet" / f"diffusion_pytorch_model.{suffix}"):
        prior = iv.priors.load(
            name, **({} if name == path else {"prediction": Scheduled(what="noise", schedule=DDPM())})
        )
        assert prior.shape == (3, 16, 16) and torch.allclose(prior.denoise(x / alpha, level), want, atol=1e-4)
    own = iv.priors.load(path, offset=0.5, unit=0.5)  # images in [0, 1], a network on [-1, 1]
    assert torch.allclose(own.denoise(0.5 + 0.5 * x / alpha, level / 2), 0.5 + 0.5 * want, atol=1e-4)
    assert own.sigma_range == pytest.approx(tuple(s / 2 for s in DDPM().levels))
    assert own.fingerprint() == iv.priors.load(path, offset=0.5, unit=0.5).fingerprint()
    double = own.to(dtype=torch.float64)
    assert double.dtype == torch.float64
    assert torch.allclose(double.denoise(x.double(), level).float(), own.denoise(x, level), atol=1e-4)


def test_a_missing_diffusers_is_named(tmp_path, monkeypatch):
    path, _ = folder(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(FileError, match=r"with the package diffusers, .*: pip install 'invsolve\[diffusers\]'"):
        iv.priors.load(path)


@pytest.mark.parametrize(
    "options",
    [
        {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "mid_block_type": None},
        {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "add_attention": False},
    ],
)
def test_heads_count_where_there_is_attention(options):
    given = DIFFUSERS_FACTS["as the first ones"][0] | options | {"attention_head_dim": 48}
    network_config(given, {"time_embedding.linear_1.weight": (128, 32)})
    with pytest.raises(ValueError, match="48 does not divide"):
        network_config(
            given | {"mid_block_type": "UNetMidBlock2D", "add_attention": True},
            {"time_embedding.linear_1.weight": (128, 32)},
        )


@pytest.mark.parametrize(
    ("scheduler", "want"),
    [
        (SCHEDULER, Scheduled(what="noise", schedule=DDPM())),
        (
            {
                "_class_name": "DDIMScheduler",
                "prediction_type": "v_prediction",
                "beta_schedule": "squaredcos_cap_v2",
                "num_train_timesteps": 500,
            },
            Scheduled(what="v", schedule=DDPM(steps=500, betas="cosine")),
        ),
        (
            {
                "_class_name": "DPMSolverMultistepScheduler",
                "prediction_type": "sample",
                "beta_schedule": "scaled_linear",
                "beta_start": 1e-3,
                "beta_end": 1e-2,
            },
            Scheduled(what="signal", schedule=DDPM(betas="scaled linear", beta_start=1e-3, beta_end=1e-2)),
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
            Scheduled(what="velocity", schedule=Flow(factor=1000.0)),
        ),
    ],
)
def test_schedulers_of_diffusers(scheduler, want):
    assert prediction_of(scheduler) == want


@pytest.mark.parametrize("name", sorted(_VARIANCE_PRESERVING | _FLOW))
def test_the_defaults_of_every_known_scheduler_are_read(name):
    """As diffusers itself states them: nothing that is there today is refused."""
    scheduler = getattr(pytest.importorskip("diffusers"), f"{name}Scheduler")
    defaults = {k: v.default for k, v in inspect.signature(scheduler.__init__).parameters.items() if k != "self"}
    defaults = {k: v for k, v in defaults.items() if v is not inspect.Parameter.empty}
    found = prediction_of({"_class_name": f"{name}Scheduler", "_diffusers_version": "0.0.1"} | defaults)
    flow = Scheduled(what="velocity", schedule=Flow(factor=1000.0))
    betas = (defaults.get("beta_start"), defaults.get("beta_end"))
    noise = Scheduled(what="noise", schedule=DDPM(beta_start=betas[0] or 1e-4, beta_end=betas[1] or 2e-2))
    assert found == (flow if name in _FLOW else noise)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("EulerDiscrete", "timestep_type", "continuous"),  # the network sees log(sigma) / 4
        ("DPMSolverMultistep", "use_flow_sigmas", True),
        ("DDIM", "rescale_betas_zero_snr", True),
        ("DDPM", "trained_betas", [0.1, 0.2]),
        ("DDPM", "twist", 3),
        ("DDPM", "twist", False),
        ("DDPM", "invert_sigmas", True),
        ("FlowMatchEulerDiscrete", "invert_sigmas", True),
        ("FlowMatchEulerDiscrete", "beta_start", 0.1),
        ("FlowMatchHeunDiscrete", "twist", 3),
    ],
)
def test_an_option_that_is_not_known_is_refused_by_its_name(tmp_path, name, option, value):
    scheduler = {"_class_name": f"{name}Scheduler", option: value}
    with pytest.raises(FileError, match=rf"{name}Scheduler .*, {option} .* is not known here. State `prediction`"):
        prediction_of(scheduler)
    assert prediction_of({k: v for k, v in scheduler.items() if k != option} | {"twist": None})  # not given
    path, _ = folder(tmp_path, scheduler=scheduler)
    with pytest.raises(FileError, match=option):
        iv.priors.load(path)
    stated = Scheduled(what="velocity", schedule=Flow(factor=3.0))  # as the message advises
    assert iv.priors.load(path, prediction=stated).prediction == stated


def test_a_flow_scheduler_of_another_name_is_refused():
    with pytest.raises(FileError, match="FlowMatchOtherScheduler .*is not known here"):
        prediction_of({"_class_name": "FlowMatchOtherScheduler"})


BAD_FOLDERS = {
    "no scheduler": ({"scheduler": None}, InputError, "there is no scheduler beside the network"),
    "unknown scheduler": (
        {"scheduler": {"_class_name": "ScoreSdeVeScheduler"}},
        FileError,
        "ScoreSdeVeScheduler.* is not known here. State `prediction`",
    ),
    "scheduler without a name": ({"scheduler": {}}, FileError, "without a name"),
    "EDM scheduler": ({"scheduler": {"_class_name": "EDMEulerScheduler"}}, FileError, "EDMEulerScheduler"),
    "own betas": ({"scheduler": SCHEDULER | {"trained_betas": [0.1]}}, FileError, "trained_betas"),
    "absurd steps": ({"scheduler": SCHEDULER | {"num_train_timesteps": 10**12}}, FileError, "absurd number of steps"),
    "bad betas": ({"scheduler": SCHEDULER | {"beta_end": 3.0}}, FileError, "beta_start"),
    "no config": ({"drop": ("config",)}, FileError, "without their config.json"),
    "another class": ({"config": {"_class_name": "UNet2DConditionModel"}}, FileError, "only UNet2DModel is known"),
    "unknown option that is off": ({"config": {"twist": False}}, FileError, "not known here: twist"),
    "unknown option": ({"config": {"twist": 3}}, FileError, "options that are not known here: twist"),
    "unknown blocks": (
        {"config": {"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}},
        FileError,
        "SkipDownBlock2D of diffusers",
    ),
    "fourier": ({"config": {"time_embedding_type": "fourier"}}, FileError, "time_embedding_type 'fourier'"),
    "classes": ({"config": {"num_class_embeds": 10}}, FileError, "class labels 10"),
    "lengths": ({"config": {"block_out_channels": [32]}}, FileError, "differ in length"),
    "absurd width": ({"config": {"block_out_channels": [32, 2**20]}}, FileError, "absurd diffusers network"),
    "absurd depth": ({"config": {"layers_per_block": 10**9}}, FileError, "absurd diffusers network"),
    "wrong type": ({"config": {"layers_per_block": "2"}}, FileError, "layers_per_block"),
    "no groups": ({"config": {"attn_norm_num_groups": 7}}, FileError, "diffusers makes no network of its options"),
    "other heads": ({"config": {"attention_head_dim": 48}}, FileError, "attention_head_dim 48 does not divide"),
    "deeper": ({"config": {"layers_per_block": 3}}, FileError, r"not its tensors: \d+ missing: down_blocks"),
    "wider": ({"config": {"block_out_channels": [32, 96]}}, FileError, r"of another shape: .* instead of \(96"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_folders_that_are_refused(tmp_path, name):
    options, error, message = BAD_FOLDERS[name]
    path, _ = folder(tmp_path, **options)
    with pytest.raises(error, match=message):
        iv.priors.load(path)


def test_folders_without_weights_or_with_bad_json(tmp_path):
    with pytest.raises(FileError, match="has no diffusion_pytorch_model.safetensors or"):
        iv.priors.load(tmp_path)
    (tmp_path / "x.index.json").write_text("{}")
    with pytest.raises(FileError, match="weights in several files are not"):
        iv.priors.load(tmp_path)
    path, _ = folder(tmp_path)
    for text, message in (
        ("{", "is no JSON"),
        ("3", "holds no configuration"),
        ("[" * 10**5, "is no JSON"),
        (" " * (2**24 + 1), "too large"),
    ):
        (path / "unet" / "config.json").write_text(text)
        with pytest.raises(FileError, match=message):
            iv.priors.load(path)


# --- files -------------------------------------------------------------------------------------------------------------
def tiny(**more):
    return filled(EDMNetwork(EDMConfig(**(EDM_FACTS["ADM"][0] | more)))).state_dict()


BAD_STATES = {
    "missing": (
        lambda s: {k: v for k, v in s.items() if k != "dec.16x16_up.norm0.bias"},
        r"1 missing: dec.16x16_up.norm0.bias",
    ),
    "unexpected": (lambda s: s | {"twist": torch.zeros(2)}, "1 unexpected: twist"),
    "another shape": (lambda s: s | {"out_norm.bias": torch.zeros(5)}, r"out_norm.bias \(5,\) instead of \(32,\)"),
    "NaN": (lambda s: s | {"out_norm.bias": torch.full((32,), torch.nan)}, "NaN or infinite values, in out_norm.bias"),
    "integers": (lambda s: s | {"out_norm.bias": torch.zeros(32, dtype=torch.int64)}, "as torch.int64"),
    "sparse": (lambda s: s | {"out_norm.bias": torch.zeros(32).to_sparse()}, "expected dense floats"),
    "classes": (lambda s: s | {"map_label.weight": torch.zeros(2, 2)}, "conditional on a class"),
    "no levels": (lambda s: {k: v for k, v in s.items() if "block0" not in k}, "absurd EDM network"),
    "no last layer": (
        lambda s: {k: v for k, v in s.items() if "out_conv" not in k},
        "is no network of the layout 'edm': there is no 'dec.16x16_aux_conv.weight'",
    ),
    "EDM2": (
        lambda s: {"unet.emb_fourier.freqs": torch.zeros(2)},
        "none of the layouts that are known.*looks like EDM2",
    ),
    "something else": (lambda s: {"conv.weight": torch.zeros(2)}, "its tensors begin with conv.weight"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_states_that_are_refused(tmp_path, name):
    change, message = BAD_STATES[name]
    torch.save(change(tiny()), tmp_path / "a.pt")
    with pytest.raises(FileError, match=message):
        iv.priors.load(tmp_path / "a.pt")


def test_adm_states_that_are_refused(tmp_path):
    state = filled(guided_diffusion()).state_dict()
    for change, message in (
        ({"label_emb.weight": torch.zeros(2, 2)}, "conditional on a class"),
        ({"input_blocks.1.0.out_layers.3.weight": torch.zeros(33, 32, 3, 3)}, "no multiples of 32"),
        ({"output_blocks.9.0.x": torch.zeros(2)}, "are numbered"),
    ):
        torch.save(state | change, tmp_path / "a.pt")
        with pytest.raises(FileError, match=message):
            iv.priors.load(tmp_path / "a.pt", shape=(3, 16, 16), layout=ADMLayout(head_channels=32))
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(FileError, match=r"State it: layout=ADMLayout\(heads=...\)"):
        iv.priors.load(tmp_path / "a.pt", shape=(3, 16, 16), layout=ADMLayout(heads=7))
    with pytest.raises(InputError, match="`shape` must be stated: the file does not say"):
        iv.priors.load(tmp_path / "a.pt", layout=ADMLayout(head_channels=32))
    with pytest.raises(FileError, match="is no network of the layout 'edm'"):
        iv.priors.load(tmp_path / "a.pt", layout=EDMLayout())


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a file was run')",))


def test_pickles_are_refused_by_what_they_ask_for(tmp_path):
    path = tmp_path / "a.pkl"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps({"ema": Evil()}, protocol=protocol))
        with pytest.raises(FileError, match=r"is a pickle that asks for `[\w.]*exec`, which is code: it is not opened"):
            iv.priors.load(path)
    torch.save({"net": Evil()}, path)
    with pytest.raises(FileError, match=r"asks for `[\w.]*exec`, which is code: it is not opened"):
        iv.priors.load(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(FileError, match="asks for `torch.nn.modules.linear.Linear`"):
        iv.priors.load(path)


def test_damaged_files_and_files_without_a_state(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(tiny(), path)
    whole = path.read_bytes()
    for cut in (2, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileError, match="is no file of torch.save, or is cut short or damaged"):
            iv.priors.load(path)
    path.write_bytes(b"\x80")
    with pytest.raises(FileError, match="is no file of torch.save"):
        iv.priors.load(path)
    for value, held in (({"a": {"b": 3}}, "a"), ([1, 2], "list"), ({}, "nothing")):
        torch.save(value, path)
        with pytest.raises(FileError, match=f"holds no state of a network: {held}"):
            iv.priors.load(path)


def test_absurdly_large_files_are_refused_before_anything_is_made(tmp_path):
    torch.save(
        {"map_layer0.weight": torch.zeros(1).expand(2**16, 2**16), "enc.8x8_conv.weight": torch.zeros(1)},
        tmp_path / "a.pt",
    )
    with pytest.raises(FileError, match="holds more than"):
        iv.priors.load(tmp_path / "a.pt")


def test_what_is_stated_is_checked(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(tiny(), path)
    for options, error, message in (
        ({"layout": "edm"}, InputTypeError, "`layout`"),
        ({"prediction": "eps"}, InputTypeError, "`prediction`"),
        ({"kind": "x"}, InputError, "`kind`"),
        ({"shape": (16, 16)}, InputError, r"`shape` must be \(2, H, W\) for real signals and a network of 2 channels"),
        ({"shape": (2, 16, 16), "kind": "complex"}, InputError, r"`shape` must be \(H, W\) for complex"),
        ({"shape": (2, 15, 16)}, InputError, "a grid of multiples of 2"),
        ({"unit": -1.0}, InputError, "`unit`"),
        ({"scale": 0.0}, InputError, "`scale`"),
    ):
        with pytest.raises(error, match=message):
            iv.priors.load(path, **options)
    one = tmp_path / "b.pt"
    torch.save(tiny(inside=1, outside=1), one)
    with pytest.raises(InputError, match="'real' for a network of 1 channels"):
        iv.priors.load(one, kind="complex")
    assert iv.priors.load(one, shape=(8, 12)).denoise(torch.zeros(1, 8, 12), 1.0).shape == (1, 8, 12)
    assert iv.priors.load(one, shape=(1, 8, 12)).denoise(torch.zeros(1, 1, 8, 12), 1.0).shape == (1, 1, 8, 12)
    told = iv.priors.load(
        path, prediction=Scheduled(what="noise", schedule=VP(factor=999.0)), unit=3.0, scale=7.0, detail=0.1
    )
    assert told.sigma_range == pytest.approx(tuple(3 * s for s in VP().levels)) and (told.scale, told.detail) == (
        7.0,
        0.1,
    )
    with pytest.raises(InputError, match="`unit` must be left out: the file states it"):
        iv.priors.load("head-mr-128", unit=2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ADMLayout(heads=0), "heads"),
        (lambda: ADMLayout(head_channels=0), "head_channels"),
        (lambda: ADMLayout(split="x"), "split"),
        (lambda: count({"a.0.x": (), "a.2.x": ()}, "a."), "numbered"),
        (
            lambda: network_config({"resnet_time_scale_shift": "spatial"}, {"time_embedding.linear_1.weight": (8, 8)}),
            "resnet_time_scale_shift",
        ),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layouts_are_told_apart():
    edm, adm = shapes(EDMNetwork(EDMConfig(**EDM_FACTS["ADM"][0]))), shapes(guided_diffusion())
    other = shapes(unet2d(**DIFFUSERS_FACTS["as the first ones"][0]))
    table = [[layout.matches(s) for s in (edm, adm, other)] for layout in (EDMLayout(), ADMLayout(), DiffusersLayout())]
    assert table == [[i == j for j in range(3)] for i in range(3)]


def test_a_loaded_prior_solves(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(tiny(inside=1, outside=1), path)
    prior = iv.priors.load(path, unit=2.0)
    A = iv.operators.Mask(mask=torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5)
    y = A(torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1)))
    strategy = iv.strategies.MMPS(covariance="jacobian", max_iter=2, num_steps=4)
    result = iv.solve(A, y, prior, noise=0.3, strategy=strategy, num_samples=2)
    assert result.samples.shape == (2, 1, 16, 16) and not any("grid goes from" in w for w in result.warnings)
    assert prior.fingerprint() == iv.priors.load(path, unit=2.0).fingerprint()
    wide = iv.strategies.MMPS(covariance="jacobian", max_iter=2, grid=torch.tensor([1000.0, 1.0, 1e-4, 0.0]))
    warned = iv.solve(A, y, prior, noise=0.3, strategy=wide, num_samples=1).warnings
    assert any("the grid goes from 1e+03 to 0.0001, the prior was made for 160 to 0.004" in w for w in warned)
