"""ResNet: the published layout, vectors of single molecules, and an encoder like the others of the table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from molstream.errors import ConfigError
from molstream.preprocessing.drawing import PLAIN, image_of, stacked
from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.config import ModelConfig, ResNetConfig
from molstream.training.models.encoders import EncodedOnce, Encoders, truncate
from molstream.training.models.resnet import ResNet
from molstream.training.module import build_module
from molstream.training.objectives.config import ObjectiveConfig
from tests.support.molecules import DRUGS, described, molecule_batch, num_parameters, seeded

NARROW = ResNetConfig(width=8, image_size=64)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """uint8 [5, 3, 64, 64]: drawings, the last one black."""
    drawings = [image_of(smiles, 64, PLAIN) for smiles in DRUGS[:4]]
    return torch.from_numpy(stacked([*drawings, None], 64)[0])


@pytest.fixture
def network() -> ResNet:
    torch.manual_seed(0)
    return ResNet(NARROW)


def drawn_batch(images: torch.Tensor) -> MoleculeBatch:
    has_image = torch.tensor([True] * 4 + [False])
    return replace(molecule_batch(DRUGS[:5]), images=images, has_image=has_image)


def by_hand(network: ResNet, images: torch.Tensor) -> np.ndarray:
    """The network in float64, each normalisation in numpy: Table 1 of He et al. (2016) for 18 layers."""
    weights = {name: tensor.double() for name, tensor in network.state_dict().items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        g, c, *size = x.shape
        grouped = x.numpy().reshape(g, min(32, c), -1)
        scaled = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 1e-5)
        rows = torch.from_numpy(scaled.reshape(g, c, *size))
        return rows * weights[f"{name}.weight"].view(-1, 1, 1) + weights[f"{name}.bias"].view(-1, 1, 1)

    x = images.double() / 255
    x = (x - torch.tensor([[[0.485]], [[0.456]], [[0.406]]])) / torch.tensor([[[0.229]], [[0.224]], [[0.225]]])
    x = norm(F.conv2d(x, weights["stem.0.weight"], stride=2, padding=3), "stem.1").relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for k, stride in enumerate([1, 1, 2, 1, 2, 1, 2, 1]):
        name, shortcut = f"blocks.{k}", x
        inner = norm(F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.norm1").relu()
        inner = norm(F.conv2d(inner, weights[f"{name}.conv2.weight"], padding=1), f"{name}.norm2")
        if stride == 2:
            shortcut = norm(F.conv2d(x, weights[f"{name}.shortcut.0.weight"], stride=2), f"{name}.shortcut.1")
        x = (shortcut + inner).relu()
    return x.mean((2, 3)).numpy()


def test_it_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = ResNet(ResNetConfig())
    assert num_parameters(network) == 11_176_512
    assert ModelConfig(resnet={}).readout_width("image") == 512


def test_it_is_the_published_layout(network, images):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        np.testing.assert_allclose(network.double()(images).numpy(), by_hand(network, images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [64, 112])
@pytest.mark.parametrize("training", [True, False])
def test_a_vector_depends_on_its_molecule_alone(network, size, training):
    images = torch.from_numpy(stacked([image_of(smiles, size, PLAIN) for smiles in DRUGS[:4]], size)[0])
    network = network.double().train(training)
    together = network(images)
    assert together.shape == (4, NARROW.hidden)
    assert together.dtype == torch.float64
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(network(images[order]), together[order], rtol=1e-9, atol=1e-9)
    alone = torch.cat([network(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(together[0], together[1])


def test_gradients_reach_every_parameter(network, images):
    (network(images) * torch.randn(5, NARROW.hidden, generator=seeded(1))).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_half_precision_costs_little(network, images):
    whole = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(images)
    assert (half - whole).norm() < 0.05 * whole.norm()


def test_the_encoders_of_a_model_have_it(images):
    torch.manual_seed(0)
    config = ModelConfig(gin={"hidden": 16, "num_layers": 2}, resnet=NARROW)
    encoders, batch = Encoders(config), drawn_batch(images)
    assert config.encoders() == {"2d": "gin", "image": "resnet"}
    assert config.image_size == 64
    assert ModelConfig(gin={}).image_size is None
    vectors = encoders.molecules("image", batch)
    assert torch.equal(vectors, encoders.encoder("image")(images))
    assert encoders.molecules("2d", batch).shape == (5, 16)
    calls = []
    encoders.encoder_image.register_forward_hook(lambda *_: calls.append(1))
    once = EncodedOnce(encoders)
    assert torch.equal(once.molecules("image", batch), vectors)
    assert once.molecules("image", batch) is once.molecules("image", batch)
    assert len(calls) == 1


def test_an_encoder_of_both_stands_beside_it():
    sizes = {"hidden": 16, "num_layers": 1, "num_heads": 2, "feed_forward": 16, "pair_hidden": 8}
    config = ModelConfig(blend_transformer=sizes, resnet=NARROW)
    encoders = Encoders(config)
    assert config.encoder_both == "blend_transformer"
    assert encoders.encoder("3d") is encoders.encoder("both") is encoders.encoder_both
    assert isinstance(encoders.encoder("image"), ResNet)


def test_objectives_learn_from_the_molecules_that_are_drawn(images):
    model = ModelConfig(gin={"hidden": 16, "num_layers": 2}, resnet=NARROW)
    batch, labels = described(drawn_batch(images), DRUGS[:5])
    module = build_module(model, ObjectiveConfig(descriptors={"hidden": 8}), 0, labels)
    head = module.objective.parts["descriptors"].heads["image"][-1]
    torch.nn.init.normal_(head.weight)
    loss = module(batch, seeded(0)).metrics["image_loss"]
    noise = batch.images.clone()
    noise[4] = 77
    assert torch.equal(module(replace(batch, images=noise), seeded(0)).metrics["image_loss"], loss)
    seen = replace(batch, has_image=torch.ones(5, dtype=torch.bool))
    assert not torch.equal(module(seen, seeded(0)).metrics["image_loss"], loss)
    module(batch, seeded(0)).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in module.encoders.encoder_image.parameters())
    module.zero_grad()
    nothing = replace(batch, has_image=torch.zeros(5, dtype=torch.bool))
    output = module(nothing, seeded(0))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad is not None and not p.grad.any() for p in module.encoders.encoder_image.parameters())


def test_its_stages_cannot_be_left_out(network):
    with pytest.raises(ConfigError, match=r"num_layers=1: ResNet has no layers that can be left out"):
        truncate(network, 1)


@pytest.mark.parametrize(("key", "value"), [("width", 0), ("image_size", 16), ("image_size", 4096)])
def test_sizes_are_bounded(key, value):
    with pytest.raises((ConfigError, ValueError), match=key):
        ResNetConfig(**{key: value})
