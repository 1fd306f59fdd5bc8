"""Networks: their structure, what images they take, their embedding, and how a config becomes one."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from ddrank.config import folder
from ddrank.errors import InputError
from ddrank.models import (
    MLP,
    VGG,
    AlexNet,
    ConvNet,
    LeNet,
    ResNet,
    build,
    embed,
    timm_model,
    torchvision_model,
)

SIZES = (8, 28, 32, 64, 128, 224)
GIVEN = {"num_classes": 10, "channels": 3, "size": 64}
CONFIGS = sorted(path.stem for path in (folder() / "model").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _quiet_machine():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def on_meta(make, **arguments) -> nn.Module:
    """A network without numbers: only its shapes can be computed."""
    with torch.device("meta"):
        return make(**arguments)


def shape_of(net: nn.Module, channels: int, size: int) -> tuple[int, ...]:
    return tuple(net(torch.empty(2, channels, size, size, device="meta")).shape)


def check_gradients(net: nn.Module, channels: int, size: int, classes: int) -> None:
    """A training step's forward and backward: finite logits of the right shape, a gradient in every parameter."""
    logits = net(torch.randn(3, channels, size, size))
    assert logits.shape == (3, classes)
    assert logits.isfinite().all()
    F.cross_entropy(logits, torch.arange(3) % classes).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


def check_sees_images(net: nn.Module, channels: int, size: int) -> None:
    """Different images get different logits: no layer on the way is constant."""
    logits = net(torch.randn(2, channels, size, size))
    assert (logits[0] - logits[1]).abs().max() > 1e-4


class TestConvNet:
    @pytest.mark.parametrize(
        ("channels", "size", "classes", "depth", "feature", "count"),
        [
            (1, 28, 10, 3, 2048, 317_706),
            (3, 32, 10, 3, 2048, 320_010),
            (3, 32, 100, 3, 2048, 504_420),
            (3, 64, 200, 4, 2048, 857_160),
            (3, 64, 200, 3, 8192, 1_938_120),
            (1, 8, 10, 3, 128, 298_506),  # 12 -> 6 -> 3 -> 1: (1280 + 256) + 2 * (147584 + 256) + 1290
        ],
    )
    def test_parameter_counts(self, channels, size, classes, depth, feature, count):
        net = ConvNet(num_classes=classes, channels=channels, size=size, depth=depth)
        assert parameters(net) == count
        assert net.classifier.in_features == feature

    def test_state_dict_keys(self):
        keys = set(ConvNet(num_classes=10, channels=3, size=32).state_dict())
        numbered = {f"features.{i}.{kind}" for i in (0, 1, 4, 5, 8, 9) for kind in ("weight", "bias")}
        assert keys == numbered | {"classifier.weight", "classifier.bias"}

    def test_keys_without_norm_and_pool(self):
        keys = set(ConvNet(num_classes=10, channels=3, size=8, norm="none", pool="none", depth=2).state_dict())
        numbered = {f"features.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
        assert keys == numbered | {"classifier.weight", "classifier.bias"}

    def test_ddranking_state_dict_loads(self):
        generator = torch.Generator().manual_seed(1)
        state = {}
        for block, inputs in enumerate((3, 128, 128)):
            state[f"features.{4 * block}.weight"] = torch.randn(128, inputs, 3, 3, generator=generator)
            state[f"features.{4 * block}.bias"] = torch.randn(128, generator=generator)
            state[f"features.{4 * block + 1}.weight"] = torch.randn(128, generator=generator)
            state[f"features.{4 * block + 1}.bias"] = torch.randn(128, generator=generator)
        state["classifier.weight"] = torch.randn(10, 2048, generator=generator)
        state["classifier.bias"] = torch.randn(10, generator=generator)
        net = ConvNet(num_classes=10, channels=3, size=32)
        net.load_state_dict(state, strict=True)
        x = torch.randn(2, 3, 32, 32, generator=generator)
        assert torch.allclose(net(x), restated_convnet(state, x, padding=1), rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize(("channels", "size", "padding"), [(3, 32, 1), (1, 28, 3), (1, 8, 3)])
    def test_against_a_restatement(self, channels, size, padding):
        net = ConvNet(num_classes=7, channels=channels, size=size, width=12)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.3)
        x = torch.randn(4, channels, size, size)
        assert torch.allclose(net(x), restated_convnet(net.state_dict(), x, padding), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("pool", ["avg", "max", "none"])
    @pytest.mark.parametrize("act", ["relu", "leaky_relu", "sigmoid"])
    @pytest.mark.parametrize("norm", ["instance", "batch", "group", "layer", "none"])
    def test_every_choice_trains(self, norm, act, pool):
        net = ConvNet(num_classes=4, channels=3, size=16, depth=2, width=8, norm=norm, act=act, pool=pool)
        check_gradients(net, 3, 16, 4)
        assert net.classifier.in_features == 8 * (16 * 16 if pool == "none" else 4 * 4)

    def test_choices_do_what_they_are_called(self):
        def layers(**choice):
            return list(ConvNet(num_classes=2, channels=3, size=16, depth=1, width=8, **choice).features)

        x = torch.randn(5, 8, 16, 16) * 3 + 1
        axes = {"instance": (2, 3), "batch": (0, 2, 3), "layer": (1, 2, 3)}
        for norm, over in axes.items():
            y = layers(norm=norm)[1](x)
            assert y.mean(over).abs().max() < 1e-5
            assert torch.allclose(y.var(over, unbiased=False), torch.ones(()), atol=1e-4)
        y = layers(norm="group")[1](x).view(5, 4, 2, 16, 16)
        assert y.mean((2, 3, 4)).abs().max() < 1e-5
        assert layers(norm="layer")[1].weight.shape == (8, 16, 16)

        line = torch.tensor([-2.0, 0.0, 3.0])
        assert torch.equal(layers(act="relu")[2](line.clone()), torch.tensor([0.0, 0.0, 3.0]))
        assert torch.allclose(layers(act="leaky_relu")[2](line.clone()), torch.tensor([-0.02, 0.0, 3.0]))
        assert torch.allclose(layers(act="sigmoid")[2](line), 1 / (1 + torch.exp(-line)))
        square = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
        assert layers(pool="avg")[3](square).item() == 3
        assert layers(pool="max")[3](square).item() == 6

    @pytest.mark.parametrize(
        ("channels", "depth", "smallest"), [(3, 3, 8), (3, 4, 16), (3, 6, 64), (1, 3, 4), (1, 4, 12), (1, 6, 60)]
    )
    def test_too_small_an_image(self, channels, depth, smallest):
        with pytest.raises(InputError, match=f"ConvNet of depth {depth} .* smallest size that works is {smallest};"):
            on_meta(ConvNet, num_classes=10, channels=channels, size=smallest - 1, depth=depth)
        net = on_meta(ConvNet, num_classes=10, channels=channels, size=smallest, depth=depth)
        assert shape_of(net, channels, smallest) == (2, 10)

    def test_without_pooling_no_image_is_too_small(self):
        check_gradients(ConvNet(num_classes=2, channels=3, size=4, depth=6, width=4, pool="none"), 3, 4, 2)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"norm": "batchnorm"}, r"model\.norm is 'batchnorm', expected one of instance, batch, group, layer, none"),
            ({"act": "gelu"}, r"model\.act is 'gelu', expected one of relu, leaky_relu, sigmoid"),
            ({"pool": "mean"}, r"model\.pool is 'mean', expected one of avg, max, none"),
            ({"depth": "three"}, r"model\.depth is 'three', expected a whole number of 1 or more"),
            ({"depth": 0}, r"model\.depth is 0, expected a whole number"),
            ({"width": 12.5}, r"model\.width is 12\.5, expected a whole number"),
            ({"norm": "group", "width": 6}, r"model\.norm=group makes 4 groups of 6 channels"),
        ],
    )
    def test_wrong_choices(self, wrong, message):
        with pytest.raises(InputError, match=message):
            ConvNet(num_classes=10, channels=3, size=32, **wrong)


def restated_convnet(state: dict[str, torch.Tensor], x: torch.Tensor, padding: int) -> torch.Tensor:
    """The ConvNet of depth 3 with instance norm, from the formulas, on given weights."""
    for block in range(3):
        conv, norm = f"features.{4 * block}", f"features.{4 * block + 1}"
        x = F.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], padding=padding)
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / (var + 1e-5).sqrt()
        x = x * state[f"{norm}.weight"].view(1, -1, 1, 1) + state[f"{norm}.bias"].view(1, -1, 1, 1)
        x = x.clamp(min=0)
        side = x.shape[-1] // 2
        x = x[:, :, : 2 * side, : 2 * side].unflatten(3, (side, 2)).unflatten(2, (side, 2)).mean((3, 5))
        padding = 1
    return x.flatten(1) @ state["classifier.weight"].T + state["classifier.bias"]


class TestSmallNetworks:
    def test_parameter_counts(self):
        # (784 * 128 + 128) + (128 * 128 + 128) + (128 * 10 + 10)
        assert parameters(MLP(num_classes=10, channels=1, size=28)) == 118_282
        # (6 * 25 + 6) + (16 * 6 * 25 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
        assert parameters(LeNet(num_classes=10, channels=1, size=28)) == 61_706
        # as above with 3 input channels: 300 more
        assert parameters(LeNet(num_classes=10, channels=3, size=32)) == 62_006
        # convolutions 9728, 614592, 442624, 442560, 331968 and 3072 * 10 + 10
        assert parameters(on_meta(AlexNet, num_classes=10, channels=3, size=32)) == 1_872_202
        # VGG-11: convolutions 9220480, instance norm 2 * 2752, classifier 5130
        assert parameters(on_meta(VGG, num_classes=10, channels=3, size=32)) == 9_231_114

    def test_state_dict_keys(self):
        def modules(make, **arguments):
            return {
                key.rpartition(".")[0] for key in on_meta(make, num_classes=10, channels=3, **arguments).state_dict()
            }

        assert modules(MLP, size=32) == {"fc_1", "fc_2", "fc_3"}
        assert modules(LeNet, size=32) == {"features.0", "features.3", "fc_1", "fc_2", "fc_3"}
        assert modules(AlexNet, size=32) == {f"features.{i}" for i in (0, 3, 6, 8, 10)} | {"fc"}
        assert modules(VGG, size=32, norm="none", depth=11) == {
            *(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)),
            "classifier",
        }

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("make", [MLP, LeNet, AlexNet, VGG, ConvNet, ResNet])
    def test_shapes_at_every_size(self, make, size, channels):
        net = on_meta(make, num_classes=7, channels=channels, size=size)
        assert shape_of(net, channels, size) == (2, 7)

    @pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 8), (1, 28), (3, 28), (3, 32)])
    @pytest.mark.parametrize("make", [MLP, LeNet, AlexNet, VGG, ConvNet])
    def test_training_step(self, make, size, channels):
        net = make(num_classes=5, channels=channels, size=size)
        check_gradients(net, channels, size, 5)
        check_sees_images(net, channels, size)

    @pytest.mark.parametrize("make", [LeNet, ConvNet])
    @pytest.mark.parametrize("size", [64, 128])
    def test_training_step_on_larger_images(self, make, size):
        check_gradients(make(num_classes=5, channels=3, size=size), 3, size, 5)

    def test_one_channel_of_28_pixels_becomes_as_32(self):
        assert LeNet(num_classes=10, channels=1, size=28).fc_1.in_features == 16 * 5 * 5
        assert LeNet(num_classes=10, channels=3, size=32).fc_1.in_features == 16 * 5 * 5
        assert on_meta(AlexNet, num_classes=10, channels=1, size=28).fc.in_features == 192 * 4 * 4
        assert on_meta(AlexNet, num_classes=10, channels=3, size=32).fc.in_features == 192 * 4 * 4

    @pytest.mark.parametrize(("make", "channels", "smallest"), [(LeNet, 1, 8), (LeNet, 3, 8), (AlexNet, 3, 8)])
    def test_too_small_an_image(self, make, channels, smallest):
        with pytest.raises(InputError, match=rf"cannot process images of 7 x 7 .* size that works is {smallest};"):
            on_meta(make, num_classes=10, channels=channels, size=7)

    def test_lenet_works_from_8_pixels_up(self):
        for channels in (1, 3):
            for size in range(8, 34):
                assert shape_of(on_meta(LeNet, num_classes=3, channels=channels, size=size), channels, size) == (2, 3)


class TestVGG:
    @pytest.mark.parametrize(
        ("depth", "norm", "name"),
        [(11, "batch", "vgg11_bn"), (11, "none", "vgg11"), (13, "none", "vgg13"), (16, "batch", "vgg16_bn")],
    )
    def test_features_against_torchvision(self, depth, norm, name):
        theirs = torchvision.models.get_model(name, weights=None, init_weights=False).features.eval()
        ours = VGG(num_classes=10, channels=3, size=32, depth=depth, norm=norm).eval()
        ours.features.load_state_dict(theirs.state_dict(), strict=True)
        x = torch.randn(2, 3, 32, 32)
        assert torch.allclose(ours.embed(x), theirs(x).flatten(1), atol=1e-5)
        assert theirs(x).abs().max() > 0.01

    def test_vgg19_has_sixteen_convolutions(self):
        net = on_meta(VGG, num_classes=10, channels=3, size=32, depth=19)
        assert [m.out_channels for m in net.features if isinstance(m, nn.Conv2d)] == [
            *(64, 64, 128, 128, 256, 256, 256, 256),
            *(512,) * 8,
        ]

    def test_instance_norm_sees_no_single_pixels(self):
        for channels in (1, 3):
            for size in range(2, 40):
                net = on_meta(VGG, num_classes=2, channels=channels, size=size)
                sides = []
                for module in net.features:
                    if isinstance(module, nn.GroupNorm):
                        module.register_forward_hook(
                            lambda _, inputs, output, sides=sides: sides.append(output.shape[-1])
                        )
                net(torch.empty(2, channels, size, size, device="meta"))
                assert len(sides) == 8
                assert min(sides) >= 2

    def test_wrong_choices(self):
        with pytest.raises(InputError, match=r"model\.depth is 12, expected one of 11, 13, 16, 19"):
            VGG(num_classes=10, channels=3, size=32, depth=12)
        with pytest.raises(InputError, match=r"model\.norm is 'group', expected one of instance, batch, none"):
            VGG(num_classes=10, channels=3, size=32, norm="group")
        with pytest.raises(InputError, match="smallest size that works is 2"):
            VGG(num_classes=10, channels=3, size=1)


class TestResNet:
    @pytest.mark.parametrize("depth", [18, 34, 50])
    def test_against_torchvision(self, depth):
        theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=6)
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
        ours = ResNet(num_classes=6, channels=3, size=96, depth=depth)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x = torch.randn(2, 3, 96, 96)
        assert torch.allclose(ours.train()(x), theirs.train()(x), rtol=1e-4, atol=1e-4)
        ours.eval(), theirs.eval()
        assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-4)

    def test_small_stem_is_the_modified_resnet18(self):
        modified = torchvision.models.resnet18(weights=None, num_classes=10)
        modified.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        modified.maxpool = nn.Identity()
        modified.eval()
        x = torch.randn(2, 3, 32, 32)
        for ours in (
            ResNet(num_classes=10, channels=3, size=32),
            torchvision_model("resnet18", num_classes=10, channels=3, size=32),
        ):
            ours.load_state_dict(modified.state_dict(), strict=True)
            assert torch.allclose(ours.eval()(x), modified(x), rtol=1e-4, atol=1e-4)

    def test_initialised_as_torchvision(self):
        torch.manual_seed(3)
        ours = ResNet(num_classes=10, channels=3, size=224)
        theirs = torchvision.models.resnet18(weights=None, num_classes=10)
        for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            if mine.ndim == 4:
                assert mine.std().item() == pytest.approx(other.std().item(), rel=0.05), name
            elif not name.startswith("fc"):
                assert torch.equal(mine, other), name

    def test_stem_follows_the_size(self):
        def stem(size, small_stem=None):
            net = on_meta(ResNet, num_classes=10, channels=3, size=size, small_stem=small_stem)
            return net.conv1.kernel_size, net.conv1.stride, type(net.maxpool)

        small, standard = ((3, 3), (1, 1), nn.Identity), ((7, 7), (2, 2), nn.MaxPool2d)
        assert stem(8) == stem(64) == stem(224, small_stem=True) == small
        assert stem(65) == stem(224) == stem(32, small_stem=False) == standard

    def test_parameter_counts(self):
        # torchvision's published 11,689,512 for 1,000 classes; 990 classes fewer, and the stem 3 x 3 instead of 7 x 7
        assert parameters(on_meta(ResNet, num_classes=1000, channels=3, size=224)) == 11_689_512
        small = on_meta(ResNet, num_classes=10, channels=3, size=32)
        assert parameters(small) == 11_689_512 - 990 * 513 - 64 * 3 * (49 - 9)

    @pytest.mark.parametrize(("norm", "size", "channels"), [("batch", 8, 1), ("instance", 28, 1), ("instance", 9, 3)])
    def test_training_step(self, norm, size, channels):
        net = ResNet(num_classes=5, channels=channels, size=size, norm=norm)
        check_gradients(net, channels, size, 5)
        check_sees_images(net, channels, size)

    def test_instance_norm_needs_more_than_a_pixel(self):
        with pytest.raises(InputError, match=r"ResNet-18 with instance normalisation .* size that works is 9;"):
            ResNet(num_classes=10, channels=1, size=8, norm="instance")
        with pytest.raises(InputError, match=r"ResNet-34 with instance normalisation .* size that works is 33;"):
            ResNet(num_classes=10, channels=3, size=32, depth=34, norm="instance", small_stem=False)
        net = on_meta(ResNet, num_classes=10, channels=3, size=33, norm="instance", small_stem=False)
        last = []
        net.layer4.register_forward_hook(lambda _, inputs, output: last.append(output.shape[-1]))
        shape_of(net, 3, 33)
        assert last == [2]

    def test_wrong_choices(self):
        with pytest.raises(InputError, match=r"model\.depth is 101, expected one of 18, 34, 50"):
            ResNet(num_classes=10, channels=3, size=32, depth=101)
        with pytest.raises(InputError, match=r"model\.norm is 'none', expected one of batch, instance"):
            ResNet(num_classes=10, channels=3, size=32, norm="none")
        with pytest.raises(InputError, match=r"model\.small_stem is 'auto', expected one of None, True, False"):
            ResNet(num_classes=10, channels=3, size=32, small_stem="auto")


class TestEmbed:
    @pytest.mark.parametrize(
        ("make", "last", "width"),
        [
            (ConvNet, "classifier", 2048),
            (MLP, "fc_3", 128),
            (LeNet, "fc_3", 84),
            (AlexNet, "fc", 3072),
            (VGG, "classifier", 512),
            (ResNet, "fc", 512),
        ],
    )
    def test_is_the_input_of_the_last_layer(self, make, last, width):
        net = make(num_classes=10, channels=3, size=32).eval()
        x = torch.randn(2, 3, 32, 32)
        features = embed(net, x)
        assert features.shape == (2, width)
        assert torch.allclose(net.get_submodule(last)(features), net(x), atol=1e-6)

    @pytest.mark.parametrize(
        ("make", "arch", "last", "width"),
        [
            (torchvision_model, "mobilenet_v2", "classifier.1", 1280),
            (torchvision_model, "shufflenet_v2_x0_5", "fc", 1024),
            (timm_model, "vit_tiny_patch16_224", "head", 192),
            (timm_model, "resnet18", "fc", 512),
        ],
    )
    def test_of_a_named_network(self, make, arch, last, width):
        net = make(arch, num_classes=10, channels=3, size=32).eval()
        x = torch.randn(2, 3, 32, 32, requires_grad=True)
        features = embed(net, x)
        assert features.shape == (2, width)
        assert torch.allclose(net.get_submodule(last)(features), net(x), atol=1e-5)
        (features * torch.arange(width)).sum().backward()  # their plain sum is constant behind a layer normalisation
        assert x.grad.abs().max() > 0
        assert all(not module._forward_pre_hooks for module in net.modules())

    def test_is_flattened(self):
        tokens = nn.Sequential(nn.Flatten(2), nn.Linear(16, 5))
        assert embed(tokens, torch.randn(2, 3, 4, 4)).shape == (2, 48)

    def test_of_a_network_without_a_linear_layer(self):
        net = torchvision_model("squeezenet1_1", num_classes=10, channels=3, size=32)
        with pytest.raises(InputError, match="SqueezeNet has no linear layer, so no embedding"):
            embed(net, torch.randn(2, 3, 32, 32))

    def test_names_the_embedding_of_dm(self):
        net = ConvNet(num_classes=10, channels=3, size=32)
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(embed(net, x), net.features(x).reshape(2, -1))


class TestTorchvision:
    @pytest.mark.parametrize(
        ("arch", "conv", "kernel", "pool"),
        [
            ("resnet50", "conv1", 3, "maxpool"),
            ("resnext50_32x4d", "conv1", 3, "maxpool"),
            ("densenet121", "features.conv0", 3, "features.pool0"),
            ("googlenet", "conv1.conv", 3, "maxpool1"),
            ("shufflenet_v2_x1_0", "conv1.0", 3, "maxpool"),
            ("squeezenet1_0", "features.0", 3, "features.2"),
            ("inception_v3", "Conv2d_1a_3x3.conv", 3, "maxpool1"),
            ("mobilenet_v2", "features.0.0", 3, None),
            ("efficientnet_b0", "features.0.0", 3, None),
            ("mnasnet0_5", "layers.0", 3, None),
            ("alexnet", "features.0", 5, None),
        ],
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_small_images_keep_their_resolution_in_the_stem(self, arch, conv, kernel, pool, channels):
        net = on_meta(torchvision_model, arch=arch, num_classes=10, channels=channels, size=32)
        stem = net.get_submodule(conv)
        assert (stem.in_channels, stem.kernel_size, stem.stride) == (channels, (kernel, kernel), (1, 1))
        assert pool is None or isinstance(net.get_submodule(pool), nn.Identity)
        assert pool is not None or arch != "alexnet" or isinstance(net.features[2], nn.MaxPool2d)
        assert shape_of(net.eval(), channels, 32) == (2, 10)

    @pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "densenet121", "alexnet", "vgg11", "convnext_tiny"])
    def test_large_images_get_torchvision_unchanged(self, arch):
        ours = on_meta(torchvision_model, arch=arch, num_classes=10, channels=3, size=224)
        theirs = on_meta(torchvision.models.get_model, name=arch, weights=None, num_classes=10)
        assert str(ours) == str(theirs)

    @pytest.mark.parametrize("arch", ["vgg11", "convnext_tiny", "swin_t", "vit_b_16", "alexnet", "mobilenet_v3_small"])
    def test_one_channel_at_a_large_size(self, arch):
        net = on_meta(torchvision_model, arch=arch, num_classes=10, channels=1, size=224)
        assert shape_of(net.eval(), 1, 224) == (2, 10)

    @pytest.mark.parametrize("arch", ["mobilenet_v2", "shufflenet_v2_x0_5", "regnet_y_400mf"])
    def test_training_step(self, arch):
        check_gradients(torchvision_model(arch, num_classes=5, channels=1, size=28), 1, 28, 5)

    def test_vision_transformer_is_made_for_the_size(self):
        net = on_meta(torchvision_model, arch="vit_b_16", num_classes=10, channels=3, size=32)
        assert net.encoder.pos_embedding.shape[1] == 2 * 2 + 1
        with pytest.raises(
            InputError, match=r"28 x 28 pixels \(.*patch size!\).* works is 16 .* work: 16, 32, 48, 64,"
        ):
            torchvision_model("vit_b_16", num_classes=10, channels=3, size=28)

    @pytest.mark.parametrize(
        ("arch", "size", "smallest"), [("vgg11", 28, 32), ("convnext_tiny", 8, 32), ("maxvit_t", 32, 224)]
    )
    def test_impossible_sizes(self, arch, size, smallest):
        with pytest.raises(InputError, match=f"torchvision's {arch} .*{size} x {size}.* works is {smallest} "):
            torchvision_model(arch, num_classes=10, channels=3, size=size)

    def test_unknown_name(self):
        with pytest.raises(
            InputError, match=r"model\.arch is 'resnet19', expected .* torchvision: did you mean resnet1"
        ):
            torchvision_model("resnet19", num_classes=10, channels=3, size=32)
        with pytest.raises(InputError, match=r"model\.arch is 'zzzzzz', expected .* such as alexnet, "):
            torchvision_model("zzzzzz", num_classes=10, channels=3, size=32)
        with pytest.raises(InputError, match=r"model\.arch is 'fcn_resnet50'"):
            torchvision_model("fcn_resnet50", num_classes=10, channels=3, size=224)

    def test_trial_leaves_the_random_state_alone(self):
        torch.manual_seed(0)
        ours = torchvision_model("resnet18", num_classes=10, channels=3, size=96)
        torch.manual_seed(0)
        theirs = torchvision.models.resnet18(weights=None, num_classes=10)
        assert torch.equal(ours.fc.weight, theirs.fc.weight)


class TestTimm:
    @pytest.mark.parametrize("size", [32, 224])
    def test_vision_transformer(self, size):
        net = timm_model("vit_tiny_patch16_224", num_classes=10, channels=1, size=size)
        assert net.pos_embed.shape[1] == (size // 16) ** 2 + 1
        check_gradients(net, 1, size, 10)

    def test_vision_transformer_of_8_pixels(self):
        with pytest.raises(InputError, match=r"timm's vit_tiny_patch16_224 .* 8 x 8 .* size that works is 16 "):
            timm_model("vit_tiny_patch16_224", num_classes=10, channels=3, size=8)

    def test_small_stem(self):
        small = on_meta(timm_model, arch="resnet18", num_classes=10, channels=3, size=64)
        assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (1, 1))
        assert isinstance(small.maxpool, nn.Identity)
        large = on_meta(timm_model, arch="resnet18", num_classes=10, channels=3, size=65)
        assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))
        assert isinstance(large.maxpool, nn.MaxPool2d)

    def test_stem_of_parallel_convolutions_stays(self):
        net = on_meta(timm_model, arch="fastvit_t8", num_classes=10, channels=3, size=32)
        assert shape_of(net.eval(), 3, 32) == (2, 10)

    def test_network_of_another_task(self, monkeypatch):
        monkeypatch.setattr("ddrank.models.named.PROBED", (14, 28))
        with pytest.raises(
            InputError, match=r"\(it gives \(2, 1, 5120\) instead of \(2, 10\) logits\): none of the sizes tried works;"
        ):
            timm_model("deepseek_vit_412m_enc", num_classes=10, channels=3, size=28)

    def test_unknown_name(self):
        with pytest.raises(InputError, match=r"model\.arch is 'vit_tiny', expected .* of timm: did you mean .*vit"):
            timm_model("vit_tiny", num_classes=10, channels=3, size=32)


class TestBuild:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_every_config(self, name):
        config = OmegaConf.create(
            {"dataset": {"convnet_depth": 4}, "model": OmegaConf.load(folder() / f"model/{name}.yaml")}
        )
        if name in ("torchvision", "timm"):
            with pytest.raises(
                InputError, match=r"model\.arch has no value: give it on the command line as model.arch="
            ):
                build(config.model, **GIVEN)
            config.model.arch = "mobilenet_v2" if name == "torchvision" else "resnet18"
        net = on_meta(build, config=config.model, **GIVEN)
        assert shape_of(net, 3, 64) == (2, 10)
        shown = {"convnet": "convnet4", "convnet_bn": "convnet4_bn"}
        shown |= {"torchvision": "mobilenet_v2", "timm": "resnet18"}
        assert config.model.name == shown.get(name, name)
        norms = {type(m) for m in net.modules()} & {nn.BatchNorm2d, nn.GroupNorm}
        if name.endswith("_bn") or name in ("resnet18", "resnet34", "resnet50"):
            assert norms == {nn.BatchNorm2d}
        elif name.startswith(("convnet", "vgg")) or name == "resnet18_in":
            assert norms == {nn.GroupNorm}

    def test_all_the_promised_configs_are_there(self):
        convnets = {
            "convnet",
            "convnet3",
            "convnet4",
            "convnet5",
            "convnet6",
            "convnet_bn",
            "convnet3_bn",
            "convnet4_bn",
        }
        vggs = {f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")}
        others = {"mlp", "lenet", "alexnet", "resnet18", "resnet18_in", "resnet34", "resnet50", "torchvision", "timm"}
        assert set(CONFIGS) >= convnets | vggs | others

    def test_plain_mapping(self):
        config = {"_target_": "ddrank.models.ConvNet", "name": "tiny", "depth": 2, "width": 8, "norm": "batch"}
        before = copy.deepcopy(config)
        net = build(config, **GIVEN)
        assert parameters(net) == (3 * 72 + 8 + 16) + (8 * 72 + 8 + 16) + (8 * 256 * 10 + 10)
        assert config == before

    def test_same_seed_same_network(self):
        config = {"_target_": "ddrank.models.ConvNet", "width": 8}
        nets = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            nets.append(build(config, **GIVEN).classifier.weight)
        assert torch.equal(nets[0], nets[1])
        assert not torch.equal(nets[0], nets[2])

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                {"_target_": "ddrank.models.ConvNet", "depht": 3},
                r"model has no setting 'depht': did you mean depth\?$",
            ),
            (
                {"_target_": "ddrank.models.ConvNet", "stride": 3},
                r"model has no setting 'stride': it takes depth, width, norm, act, pool$",
            ),
            ({"_target_": "ddrank.models.MLP", "width": 3}, r"model has no setting 'width': it takes no settings$"),
            ({"_target_": "ddrank.models.ConvNet", "size": 64}, r"model has no setting 'size'"),
            (
                {"_target_": "ddrank.models.ConvNett"},
                r"model\._target_ is 'ddrank.models.ConvNett', .* cannot be imported",
            ),
            ({"_target_": "nowhere.Net"}, r"model\._target_ is 'nowhere.Net', .* cannot be imported"),
            ({"_target_": "Net"}, r"model\._target_ is 'Net', .* cannot be imported"),
            ({"name": "convnet"}, r"model has no _target_"),
            ({"_target_": "torch.pi"}, r"model\._target_ is 'torch.pi', which is neither a class nor a function"),
            ({"_target_": "os.getcwd"}, r"gives a str, expected a torch module"),
            ({"_target_": "ddrank.models.timm_model"}, r"model needs a value for arch"),
            ({"_target_": f"{__name__}.not_a_network"}, r"gives a tuple, expected a torch module"),
        ],
    )
    def test_wrong_configs(self, config, message):
        with pytest.raises(InputError, match=message):
            build(config, **GIVEN)


def not_a_network(*, num_classes: int, channels: int, size: int) -> tuple[int, ...]:
    return num_classes, channels, size
