"""Residual networks against the same written in PyTorch, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import nn

# Kernel size, stride, padding and pooling of each stem.
STEMS = {
    "imagenet": (7, 2, 3, True),
    "small": (3, 1, 1, False),
    "small_stride2": (3, 2, 1, False),
    "small_padding2": (3, 1, 2, False),
}


class Torch:
    """ResNet in PyTorch from its formulas; parameters and statistics by our names."""

    def __init__(self, model, variables, dtype="float64"):
        self.torch = pytest.importorskip("torch")
        self.model = model
        self.dtype = getattr(self.torch, dtype)
        self.params = {
            k: self.tensor(torch_layout(v), True) for k, v in flat(variables["params"]).items()
        }
        self.stats = {k: self.tensor(v) for k, v in flat(variables["batch_stats"]).items()}

    def tensor(self, array, requires_grad=False):
        array = np.asarray(array)
        return self.torch.tensor(array.copy(), dtype=self.dtype, requires_grad=requires_grad)

    def conv(self, x, name, stride, padding):
        kernel = self.params[f"{name}/kernel"]
        return self.torch.nn.functional.conv2d(x, kernel, stride=stride, padding=padding)

    def norm(self, x, name, train):
        batch_norm = self.torch.nn.functional.batch_norm
        stats = self.stats[f"{name}/mean"], self.stats[f"{name}/var"]
        scale, bias = self.params[f"{name}/scale"], self.params[f"{name}/bias"]
        return batch_norm(x, *stats, scale, bias, training=train, momentum=0.1, eps=1e-5)

    def __call__(self, images, train):
        relu = self.torch.relu
        size, stride, padding, pool = STEMS[self.model.stem]
        h = self.conv(self.tensor(images.transpose(0, 3, 1, 2)), "stem_conv", stride, padding)
        h = relu(self.norm(h, "stem_bn", train))
        assert self.params["stem_conv/kernel"].shape[-1] == size
        if pool:
            h = self.torch.nn.functional.max_pool2d(h, 3, 2, 1)
        bottleneck = self.model.block == "bottleneck"
        for stage, blocks in enumerate(self.model.stage_sizes, start=1):
            for block in range(1, blocks + 1):
                name, step = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
                strides = (1, step, 1) if bottleneck else (step, 1)
                x = h
                for i, s in enumerate(strides, start=1):
                    padding = 0 if bottleneck and i != 2 else 1
                    h = self.norm(
                        self.conv(h, f"{name}/conv{i}", s, padding), f"{name}/bn{i}", train
                    )
                    h = relu(h) if i < len(strides) else h
                if f"{name}/shortcut_conv/kernel" in self.params:
                    x = self.conv(x, f"{name}/shortcut_conv", step, 0)
                    x = self.norm(x, f"{name}/shortcut_bn", train)
                h = relu(x + h)
        return h.mean((2, 3))


def torch_layout(kernel):
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(v) for p, v in leaves}


def images_of(seed, shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def randomised(variables, seed):
    """Scales, shifts and running averages moved from where they start."""
    rng = np.random.default_rng(seed)

    def moved(leaf):
        noise = rng.uniform(0.5, 1.5, size=leaf.shape).astype(leaf.dtype)
        return leaf * noise + 0.1 * (noise - 1) if leaf.ndim == 1 else leaf

    return jax.tree.map(lambda leaf: jnp.asarray(moved(np.asarray(leaf))), variables)


def distance(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def initialised(model, images, seed=0):
    init = jax.jit(lambda key: model.init(key, jnp.asarray(images), train=False))
    return init(jax.random.key(seed))


def test_numbers_of_parameters():
    for make, wanted in ((nn.resnet50, 23_508_032), (nn.resnet18, 11_176_512)):
        model, images = make(), jnp.ones((1, 32, 32, 3))
        shapes = jax.eval_shape(lambda m=model, x=images: m.init(jax.random.key(0), x, train=False))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == wanted


@pytest.mark.parametrize(
    ("make", "settings", "shape"),
    [
        pytest.param(nn.resnet18, {"stem": "imagenet"}, (4, 45, 37, 3), marks=pytest.mark.slow),
        pytest.param(nn.resnet50, {"stem": "imagenet"}, (3, 33, 40, 3), marks=pytest.mark.slow),
        (
            nn.ResNet,
            {"stage_sizes": (1, 1, 1), "width": 8, "stem": "small_stride2"},
            (5, 13, 10, 2),
        ),
        (nn.ResNet, {"stage_sizes": (1, 2), "width": 8, "stem": "small_padding2"}, (5, 9, 9, 1)),
    ],
)
def test_equals_pytorch(make, settings, shape):
    model, images = make(**settings), images_of(1, shape)
    variables = randomised(initialised(model, images), seed=2)
    exact, theirs = Torch(model, variables), Torch(model, variables, "float32")

    def assert_as_accurate_as_pytorch(ours, theirs, exact, name="h"):
        allowed = 4 * distance(theirs, exact) + 20 * np.finfo(np.float32).eps
        assert distance(ours, exact) < allowed, name

    for train in (False, True):
        apply = jax.jit(lambda v, x, t=train: model.apply(v, x, train=t, mutable=["batch_stats"]))
        h, updated = apply(variables, jnp.asarray(images))
        wanted = (torch(images, train).detach() for torch in (theirs, exact))
        assert_as_accurate_as_pytorch(h, *wanted)
        for name, value in flat(updated["batch_stats"]).items():
            assert_as_accurate_as_pytorch(value, theirs.stats[name], exact.stats[name], name)


@pytest.mark.parametrize(
    ("block", "stem", "train"),
    [
        ("basic", "imagenet", True),
        ("basic", "small", False),
        ("bottleneck", "imagenet", False),
        ("bottleneck", "small", True),
    ],
)
def test_gradients_equal_pytorch(x64, block, stem, train):
    model = nn.ResNet((1, 2), block=block, width=4, stem=stem, dtype=jnp.float64)
    images = images_of(3, (4, 15, 18, 3), np.float64)
    variables = randomised(initialised(model, images), seed=4)
    theirs = Torch(model, variables)
    target = np.random.default_rng(5).normal(size=(4, 8 * (4 if block == "bottleneck" else 1)))

    @jax.jit
    def gradients(params, x):
        def loss(params, x):
            tree = {"params": params, "batch_stats": variables["batch_stats"]}
            h, _ = model.apply(tree, x, train=train, mutable=["batch_stats"])
            return jnp.sum(h * jnp.asarray(target))

        return jax.grad(loss)(params, x)

    ours = flat(gradients(variables["params"], jnp.asarray(images)))
    h = theirs(images, train)
    (h * theirs.torch.tensor(target)).sum().backward()
    scale = max(np.linalg.norm(g) for g in ours.values())
    for name, gradient in ours.items():
        expected = theirs.params[name].grad.numpy()
        expected = expected.transpose(2, 3, 1, 0) if expected.ndim == 4 else expected
        assert np.linalg.norm(gradient - expected) < 1e-12 * scale, name


def test_bfloat16_and_remat():
    settings = {"stage_sizes": (1, 1), "width": 16, "stem": "small"}
    images = jnp.asarray(images_of(6, (8, 8, 8, 3)))
    model = nn.ResNet(**settings)
    variables = initialised(model, images)
    half = nn.ResNet(**settings, dtype=jnp.bfloat16)
    h = model.apply(variables, images, train=False)
    h_half, updated = half.apply(variables, images, train=True, mutable=["batch_stats"])
    assert h_half.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(initialised(half, images))} == {h.dtype}
    h_half = half.apply(variables, images, train=False)
    assert 1e-4 < distance(h_half, h) < 4 * float(jnp.finfo(jnp.bfloat16).eps)

    def gradient(model):
        def loss(params):
            tree = {"params": params, "batch_stats": variables["batch_stats"]}
            h, updated = model.apply(tree, images, train=True, mutable=["batch_stats"])
            return jnp.sum(h**3), updated

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    kept, computed_again = gradient(model), gradient(nn.ResNet(**settings, remat=True))
    assert jax.tree.structure(kept) == jax.tree.structure(computed_again)
    for ours, theirs in zip(*map(jax.tree.leaves, (computed_again, kept)), strict=True):
        assert distance(ours, theirs) < 200 * np.finfo(np.float32).eps


def test_initial_values():
    model = nn.resnet18(stem="small", zero_init_residual=True)
    params = flat(initialised(model, images_of(0, (1, 8, 8, 3)))["params"])
    for name, value in params.items():
        if name.endswith("kernel"):
            k, _, _, features = value.shape
            # The standard error of the standard deviation of m numbers is 1/sqrt(2 m).
            error = 5 / np.sqrt(2 * value.size)
            np.testing.assert_allclose(value.std(), np.sqrt(2 / (k * k * features)), rtol=error)
        else:
            zero = name.endswith("bias") or name.endswith("bn2/scale")
            np.testing.assert_array_equal(value, 0 if zero else 1)


def test_zero_init_residual_makes_blocks_identities():
    images = jnp.asarray(images_of(0, (2, 8, 8, 3)))
    model = nn.ResNet((2,), width=4, stem="small", zero_init_residual=True)
    variables = initialised(model, images)
    shorter = nn.ResNet((1,), width=4, stem="small", zero_init_residual=True)
    h, h_shorter = (m.apply(variables, images, train=False) for m in (model, shorter))
    np.testing.assert_array_equal(h, h_shorter)


def test_statistics_stay_where_they_cannot_change():
    images = jnp.asarray(images_of(0, (4, 8, 8, 3)))
    model = nn.ResNet((1,), width=4, stem="small")
    variables = initialised(model, images)
    h = model.apply(variables, images, train=True)
    with_update, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(h, with_update)


def test_wrong_arguments(unchecked):
    for settings, message in (
        ({"stage_sizes": ()}, "stage_sizes must hold"),
        ({"stage_sizes": (2, 0)}, "stage_sizes"),
        ({"stage_sizes": (2,), "width": 0}, "width"),
        ({"stage_sizes": (2,), "block": "wide"}, "'wide'"),
        ({"stage_sizes": (2,), "stem": "large"}, "'large'"),
    ):
        with pytest.raises(ValueError, match=message):
            nn.ResNet(**settings)
    model = nn.ResNet((1,), width=4)
    for x in (jnp.ones((8, 8, 3)), jnp.ones((0, 8, 8, 3)), jnp.ones((1, 8, 8, 3), jnp.uint8)):
        with pytest.raises(ValueError, match="x must be images"):
            model.init(jax.random.key(0), x, train=False)
