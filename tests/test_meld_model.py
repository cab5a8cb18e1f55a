"""MELD's latent state model: its sizes, its convolutions, its filter, its ELBO; both gradient steps by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meld_by_hand import (
    Parameters,
    Transitions,
    convolve,
    convolve_transposed,
    critic_loss,
    elbo_of_trial,
    filter_trial,
    loss,
    parameters_of,
    policy_loss,
    sample,
    targets,
)

from nacre.agents.meld.config import MeldConfig
from nacre.agents.meld.learner import MeldLearner
from nacre.agents.meld.losses import (
    Frames,
    PolicyBatch,
    Trained,
    elbo,
    filtered,
    model_step,
    policy_step,
    seen_rewards,
)
from nacre.agents.meld.model import Gaussian, LatentModel
from nacre.nn import image
from nacre.nn.image import NARROW, DoublingConvolution, HalvingConvolution, ImageDecoder, ImageEncoder, cameras_of
from nacre.tasks.family import Sizes

ONE, TWO = (64, 64, 3), (128, 64, 3)

PUBLISHED = {
    # name: picture, dimensions of an action, of z1 and z2, hidden size; then the counts of spec meld 1.5
    "cheetah": (ONE, 6, 64, 32, 256),
    "reacher": (TWO, 7, 64, 32, 256),
    "buttons": (TWO, 7, 64, 32, 512),
    "peg": (TWO, 7, 128, 64, 512),
    "shelf": (TWO, 9, 128, 64, 256),
}
NETWORKS = (
    *("encoder", "decoder", "initial_second", "prior", "second"),
    *("initial_posterior", "posterior", "reward_decoder"),
)
COUNTS = {
    "cheetah": (5_748_864, 2_340_483, 328_768, 348_288, 348_224, 607_360, 626_816, 312_833),
    "reacher": (11_496_256, 4_680_003, 328_768, 348_800, 348_736, 607_360, 627_328, 312_833),
    "buttons": (11_496_256, 4_680_003, 328_768, 348_800, 348_736, 607_360, 627_328, 312_833),
    "peg": (11_496_256, 6_252_867, 394_368, 430_848, 430_720, 673_024, 709_376, 361_985),
    "shelf": (11_496_256, 6_252_867, 394_368, 431_872, 431_744, 673_024, 710_400, 361_985),
}
TOTALS = {
    # the latent model, the actor, one critic
    "cheetah": (10_661_636, 118_284, 116_993),
    "reacher": (18_750_084, 118_798, 117_249),
    "buttons": (18_750_084, 368_654, 365_569),
    "peg": (20_749_444, 466_958, 463_873),
    "shelf": (20_752_516, 168_978, 166_913),
}


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    picture, action, first, second, hidden = PUBLISHED[name]
    config = MeldConfig(first_latent_size=first, second_latent_size=second, hidden_size=hidden)
    learner = MeldLearner(config, Sizes(picture, action, 40, 1))
    networks = jax.eval_shape(learner.initial_state, jax.random.key(0)).trained.networks
    assert tuple(count(getattr(networks.model, network)) for network in NETWORKS) == COUNTS[name]
    found = networks.model, networks.control.policy, networks.control.critics[0]
    assert tuple(map(count, found)) == TOTALS[name]


def random_pictures(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.integers(0, 256, (*shape, 3)).astype(np.uint8)


@pytest.fixture(params=["narrow", "narrow on a GPU", "wide"])
def channels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Those of inputs and outputs, for each way in which a convolution is computed."""
    if request.param == "narrow on a GPU":
        monkeypatch.setattr(image, "current_platform", lambda: "gpu")
        monkeypatch.setattr(image, "_convolve", None)
        monkeypatch.setattr(image, "_convolve_transposed", None)
    return (NARROW, NARROW + 1) if request.param == "wide" else (3, 4)


@pytest.mark.parametrize("size", [(5, 5), (3, 3), (10, 5), (6, 3)])
def test_convolutions(size: tuple[int, int], channels: tuple[int, int]) -> None:
    """Both against loops, as both are computed; and the one is the transpose of the other."""
    generator, (few, more) = np.random.default_rng(0), channels
    pictures = generator.normal(size=(2, 16 * size[0] // size[1], 16, few))
    halving = HalvingConvolution(few, more, size, key=jax.random.key(0), precision="float32")
    kernel = np.asarray(halving.weight, np.float64).reshape(*size, few, more)
    found = halving(jnp.asarray(pictures, jnp.float32))
    expected = convolve(pictures, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    published = jax.lax.conv_general_dilated(
        jnp.asarray(pictures, jnp.float32),
        jnp.asarray(kernel, jnp.float32),
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    np.testing.assert_allclose(found, published, atol=1e-5)

    doubling = DoublingConvolution(more, few, size, key=jax.random.key(1), precision="float32")
    kernel = np.asarray(doubling.weight, np.float64).T.reshape(*size, few, more)
    outputs = generator.normal(size=found.shape)
    raised = doubling(jnp.asarray(outputs, jnp.float32))
    np.testing.assert_allclose(raised, convolve_transposed(outputs, kernel), atol=1e-5)
    product = (convolve(pictures, kernel) * outputs).sum()
    np.testing.assert_allclose((pictures * np.asarray(raised, np.float64)).sum(), product, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [(5, 5), (3, 3), (10, 5), (6, 3)])
def test_gradients_of_convolutions(size: tuple[int, int], channels: tuple[int, int]) -> None:
    """Both are linear in inputs and kernel: a gradient's product with any kernel is what that kernel would give."""
    generator, (few, more) = np.random.default_rng(1), channels
    large = generator.normal(size=(2, 8 * size[0] // size[1], 8, few)).astype(np.float32)
    small = generator.normal(size=(2, large.shape[1] // 2, 4, more)).astype(np.float32)
    other = generator.normal(size=(*size, few, more))

    def gradients(layer: Any, inputs: np.ndarray, cotangent: np.ndarray) -> tuple[Any, np.ndarray]:
        def product(layer: Any, inputs: jax.Array) -> jax.Array:
            return (layer(inputs) * jnp.asarray(cotangent)).sum()

        of_layer, of_inputs = jax.grad(product, argnums=(0, 1))(layer, jnp.asarray(inputs))
        np.testing.assert_allclose(of_layer.bias, cotangent.sum(axis=(0, 1, 2)), rtol=1e-4, atol=1e-4)
        return of_layer, np.asarray(of_inputs)

    halving = HalvingConvolution(few, more, size, key=jax.random.key(0), precision="float32")
    kernel = np.asarray(halving.weight, np.float64).reshape(other.shape)
    of_layer, of_inputs = gradients(halving, large, small)
    np.testing.assert_allclose(of_inputs, convolve_transposed(small, kernel), atol=1e-5)
    found = (np.asarray(of_layer.weight, np.float64).reshape(other.shape) * other).sum()
    np.testing.assert_allclose(found, (convolve(large, other) * small).sum(), rtol=1e-4, atol=1e-2)

    doubling = DoublingConvolution(more, few, size, key=jax.random.key(1), precision="float32")
    kernel = np.asarray(doubling.weight, np.float64).T.reshape(other.shape)
    of_layer, of_inputs = gradients(doubling, small, large)
    np.testing.assert_allclose(of_inputs, convolve(large, kernel), atol=1e-5)
    found = (np.asarray(of_layer.weight, np.float64).T.reshape(other.shape) * other).sum()
    np.testing.assert_allclose(found, (convolve_transposed(small, other) * large).sum(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("picture", [(32, 32, 3), (64, 32, 3)])
def test_shapes_of_one_and_two_cameras(picture: tuple[int, int, int]) -> None:
    key, generator = jax.random.key(0), np.random.default_rng(0)
    encoder = ImageEncoder(picture, 2, key=key, precision="float32")
    decoder = ImageDecoder(5, picture, 2, key=key, precision="float32")
    assert encoder.convolutions[0].size == (5 * picture[0] // picture[1], 5)
    pictures = jnp.asarray(random_pictures(generator, 3, *picture[:2]))
    assert jax.eval_shape(encoder, pictures).shape == (3, 16)
    assert jax.eval_shape(decoder, jnp.ones((3, 5))).shape == (3, *picture)


def test_which_pictures_can_be_encoded() -> None:
    shapes = [(64, 64, 3), (128, 64, 3), (16, 16, 3), (192, 64, 3), (64, 128, 3), (40, 40, 3), (64, 48, 3)]
    assert [cameras_of(shape) for shape in shapes] == [1, 2, 1, None, None, None, None]
    with pytest.raises(ValueError, match="a multiple of 16"):
        ImageEncoder((40, 40, 3), 2, key=jax.random.key(0), precision="float32")


def test_divergence_of_gaussians() -> None:
    one = Gaussian(jnp.array([[0.5, -1.0]]), jnp.array([[0.3, 2.0]]))
    other = Gaussian(jnp.array([[0.0, 1.0]]), jnp.array([[1.0, 0.7]]))
    by_hand = [
        np.log(1.0 / 0.3) + (0.3**2 + 0.5**2) / 2 - 0.5,
        np.log(0.7 / 2.0) + (2.0**2 + 2.0**2) / (2 * 0.7**2) - 0.5,
    ]
    np.testing.assert_allclose(one.divergence_from(other), [sum(by_hand)], rtol=1e-5)
    assert float(one.divergence_from(one)[0]) == 0.0


CONFIG = MeldConfig(
    base_depth=1,
    first_latent_size=3,
    second_latent_size=2,
    reward_repeats=2,
    reward_weight=10.0,
    episodes=2,
    episode_steps=2,
    model_learning_rate=1e-3,
    hidden_size=4,
)
TINY = Sizes((16, 16, 3), 2, 2, 1)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1]], bool)
"""The first episode of the second trial ended early."""


def tiny_frames() -> Frames:
    generator = np.random.default_rng(1)
    n, length = MASK.shape
    actions = generator.uniform(-1, 1, (n, length, 2)).astype(np.float32)
    rewards = generator.normal(size=(n, length)).astype(np.float32)
    actions[:, ::3] = rewards[:, ::3] = 0  # resets
    return Frames(
        pictures=jnp.asarray(random_pictures(generator, n, length, 16, 16)),
        actions=jnp.asarray(actions),
        rewards=jnp.asarray(rewards),
        sparse_rewards=jnp.asarray(rewards > 0, jnp.float32),
        terminated=jnp.zeros((n, length), bool),
        mask=jnp.asarray(MASK),
        acts=jnp.asarray(MASK),
    )


def by_trial(frames: Frames, config: MeldConfig) -> list[dict[str, np.ndarray]]:
    columns = {
        "pictures": frames.pictures,
        "actions": frames.actions,
        "rewards": frames.rewards,
        "seen": seen_rewards(config, frames),
        "mask": frames.mask,
    }
    arrays = {
        name: np.asarray(column, np.uint8 if name == "pictures" else np.float64) for name, column in columns.items()
    }
    return [{name: array[trial] for name, array in arrays.items()} for trial in range(len(frames.mask))]


@pytest.fixture(scope="module")
def tiny() -> tuple[MeldLearner, Trained]:
    """A learner, and what it has trained, with biases that are not 0."""
    learner = MeldLearner(CONFIG, TINY)
    trained = jax.jit(learner.initial_state)(jax.random.key(2)).trained
    leaves, tree = jax.tree.flatten(trained.networks.model)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    model = jax.tree.unflatten(tree, moved)
    critics = jax.tree.leaves(trained.networks.control.critics)
    for followed, target in zip(critics, jax.tree.leaves(trained.target_critics), strict=True):
        np.testing.assert_array_equal(followed, target)
    return learner, trained._replace(networks=type(trained.networks)(model, trained.networks.control))


@pytest.mark.parametrize("context", ["sparse", "none"])
def test_elbo_by_hand(tiny: tuple[MeldLearner, Trained], context: Any) -> None:
    config = replace(CONFIG, context_reward=context)
    model, frames, key = tiny[1].networks.model, tiny_frames(), jax.random.key(4)
    noise = np.asarray(jax.random.normal(key, (*MASK.shape, config.latent_size)), np.float64)
    found = jax.jit(elbo, static_argnums=1)(model, config, frames, key)
    trials = by_trial(frames, config)
    seen = {"dense": frames.rewards, "sparse": frames.sparse_rewards, "none": np.zeros(MASK.shape)}[context]
    for trial, (parts, drawn) in enumerate(zip(trials, noise, strict=True)):
        np.testing.assert_array_equal(parts["seen"], seen[trial])
        expected = elbo_of_trial(parameters_of(model), config, parts, drawn)
        assert expected["second"] == 0.0
        np.testing.assert_allclose(found.image[trial], expected["image"], rtol=1e-5)
        np.testing.assert_allclose(found.reward[trial], expected["reward"], rtol=1e-5)
        np.testing.assert_allclose(found.divergence[trial], expected["first"], rtol=1e-5)
    total = float(found.total(config).mean())
    np.testing.assert_allclose(-total, loss(parameters_of(model), config, trials, noise), rtol=1e-5)


def test_a_gradient_step_by_hand(tiny: tuple[MeldLearner, Trained]) -> None:
    """Against finite differences in float64, some numbers of every array; Adam's first step moves by the sign."""
    _, trained = tiny
    frames, key = tiny_frames(), jax.random.key(4)
    noise = np.asarray(jax.random.normal(key, (*MASK.shape, CONFIG.latent_size)), np.float64)
    trials = by_trial(frames, CONFIG)
    stepped, metrics = jax.jit(model_step, static_argnums=1)(trained, CONFIG, frames, key)
    before, after = parameters_of(trained.networks.model), parameters_of(stepped.networks.model)
    np.testing.assert_allclose(metrics["Model Loss"], loss(before, CONFIG, trials, noise), rtol=1e-5)
    optimiser: Any = stepped.optimisers.model
    gradients = parameters_of(optimiser[0].mu)
    generator = np.random.default_rng(5)
    assert before.keys() == gradients.keys()
    for name, array in before.items():
        for _ in range(2):
            place = tuple(generator.integers(length) for length in array.shape)
            values = []
            for change in (1e-5, -1e-5):
                array[place] += change
                values.append(loss(before, CONFIG, trials, noise))
                array[place] -= change
            expected = (values[0] - values[1]) / 2e-5
            gradient = gradients[name][place] / 0.1  # the first moment is (1 - 0.9) times the gradient
            np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=2e-3, err_msg=name)
            moved = -1e-3 * gradient / (abs(gradient) + 1e-8)
            np.testing.assert_allclose(after[name][place] - array[place], moved, atol=2e-6, err_msg=name)
    untouched = jax.tree.leaves(trained.networks.control)
    for ours, theirs in zip(jax.tree.leaves(stepped.networks.control), untouched, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def noisy(tree: Any, seed: int) -> Any:
    """With biases that are not 0."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def transitions_by_hand(model: Parameters, config: MeldConfig, batch: PolicyBatch, noise: np.ndarray) -> Transitions:
    """In the means and deviations of what a filter believes."""
    rows = []
    trials = by_trial(batch.frames, config)
    filters = [filter_trial(model, config, trial, drawn) for trial, drawn in zip(trials, noise, strict=True)]
    for picked in np.asarray(batch.picked):
        trial, time = divmod(int(picked), MASK.shape[1])
        now, following = (
            np.concatenate([*filters[trial][at].q1, *filters[trial][at].q2], axis=1)[0] for at in (time, time + 1)
        )
        played, ended = trials[trial], bool(batch.frames.terminated[trial, time + 1])
        rows.append((now, played["actions"][time + 1], 2.0 * played["rewards"][time + 1], following, ended))
    return Transitions(*map(np.stack, zip(*rows, strict=True)))


def check_differences(loss: Any, before: Parameters, stepped: Parameters, moments: Any, rate: float) -> None:
    """The gradient of a loss of `before`, in some numbers of every array, by differences; and Adam's first step."""
    gradients, generator = parameters_of(moments[0].mu), np.random.default_rng(6)
    for name, gradient in gradients.items():
        full = next(each for each in before if each.endswith(name))
        for _ in range(2):
            place = tuple(generator.integers(length) for length in gradient.shape)
            losses = []
            for change in (1e-6, -1e-6):
                before[full][place] += change
                losses.append(loss(before))
                before[full][place] -= change
            expected = (losses[0] - losses[1]) / 2e-6
            found = gradient[place] / 0.1  # the first moment is (1 - 0.9) times the gradient
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4, err_msg=full)
            moved = -rate * found / (abs(found) + 1e-8)
            np.testing.assert_allclose(stepped[full][place] - before[full][place], moved, atol=2e-6, err_msg=full)


def test_a_step_of_policy_and_critics_by_hand(tiny: tuple[MeldLearner, Trained]) -> None:
    """In float64, from pictures on: temperature, critics, policy and targets, one after another; no gradient reaches
    the latent model."""
    config = replace(CONFIG, reward_scale=2.0, discount=0.9, critic_learning_rate=2e-3, temperature_learning_rate=1e-2)
    trained = tiny[1]
    control = noisy(trained.networks.control, 7)
    trained = trained._replace(
        networks=type(trained.networks)(trained.networks.model, control),
        target_critics=noisy(trained.target_critics, 8),
    )
    frames = tiny_frames()
    frames = frames._replace(terminated=frames.terminated.at[1, 1].set(True))
    batch = PolicyBatch(frames, jnp.asarray([0, 1, 3, 4, 6, 9, 10, 0], jnp.int32))  # 6: where the task ends
    key = jax.random.key(9)
    new, metrics = jax.jit(policy_step, static_argnums=1)(trained, config, batch, key)

    filter_key, step_key = jax.random.split(key)  # as the step draws
    drawn = np.asarray(jax.random.normal(filter_key, (*MASK.shape, config.latent_size)), np.float64)
    action_noise, next_noise = (
        np.asarray(jax.random.normal(each, (8, 2)), np.float64) for each in jax.random.split(step_key)
    )
    model = parameters_of(trained.networks.model)
    rows = transitions_by_hand(model, config, batch, drawn)
    assert rows.terminated.tolist() == [False, False, False, False, True, False, False, False]

    before, after = parameters_of(control), parameters_of(new.networks.control)
    _, log_density = sample(before, rows.features, action_noise)
    slope = -(log_density - 2).mean()  # the entropy that is wanted is minus the dimensions of an action
    np.testing.assert_allclose(metrics["Temperature Loss"], before["log_temperature"] * slope, rtol=1e-4)
    np.testing.assert_allclose(metrics["Policy Entropy"], -log_density.mean(), rtol=1e-4)
    log_alpha = before["log_temperature"] - 1e-2 * np.sign(slope)
    np.testing.assert_allclose(after["log_temperature"], log_alpha, rtol=1e-4)
    alpha = float(np.exp(log_alpha))

    old_targets = parameters_of(trained.target_critics)
    wanted = targets(
        before, {f"critics{name}": array for name, array in old_targets.items()}, alpha, 0.9, rows, next_noise
    )
    np.testing.assert_allclose(metrics["QF Loss"], critic_loss(before, rows, wanted), rtol=1e-4)
    states = new.optimisers.control
    check_differences(lambda at: critic_loss(at, rows, wanted), before, after, states.critics, 2e-3)

    def of_policy(at: Parameters) -> float:
        return policy_loss(at, after, alpha, rows.features, action_noise)

    np.testing.assert_allclose(metrics["Policy Loss"], of_policy(before), rtol=1e-4)
    check_differences(of_policy, before, after, states.policy, 3e-4)

    for name, array in parameters_of(new.target_critics).items():
        expected = 0.995 * old_targets[name] + 0.005 * after[f"critics{name}"]
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(*map(jax.tree.leaves, (new.networks.model, trained.networks.model)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.usefixtures("compiled_as_for_users")
def test_filtering_in_a_loop_is_filtering_in_a_scan(tiny: tuple[MeldLearner, Trained]) -> None:
    """Bit for bit, across the reset between two episodes."""
    model: LatentModel = tiny[1].networks.model
    frames, n, length = tiny_frames(), *MASK.shape
    embedded = jax.random.normal(jax.random.key(6), (n, length, 8 * CONFIG.base_depth + CONFIG.reward_repeats))
    noise = jax.random.normal(jax.random.key(7), (n, length, CONFIG.latent_size))
    everywhere = jnp.ones((n, length), bool)
    scanned = jax.jit(LatentModel.filter)(model, embedded, frames.actions, everywhere, noise)
    begin, advance = jax.jit(LatentModel.begin), jax.jit(LatentModel.advance)
    believed = begin(model, embedded[:, 0], noise[:, 0])
    for time in range(length):
        if time:
            believed = advance(model, believed.latent, frames.actions[:, time], embedded[:, time], noise[:, time])
        for ours, theirs in zip(jax.tree.leaves(believed), jax.tree.leaves(scanned), strict=True):
            np.testing.assert_array_equal(ours, theirs[:, time])
        assert believed.features.shape == (n, 2 * CONFIG.latent_size)


def test_frames_that_are_not_there_change_nothing(tiny: tuple[MeldLearner, Trained]) -> None:
    model, frames, key = tiny[1].networks.model, tiny_frames(), jax.random.key(4)
    spoilt = frames._replace(
        pictures=jnp.where(frames.mask[..., None, None, None], frames.pictures, 255 - frames.pictures),
        rewards=jnp.where(frames.mask, frames.rewards, 1e6),
        actions=jnp.where(frames.mask[..., None], frames.actions, 1e6),
    )
    believed = jax.jit(filtered, static_argnums=1)
    one, other = believed(model, CONFIG, frames, key), believed(model, CONFIG, spoilt, key)
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.features[1, 2], one.features[1, 1])
    parts = jax.jit(elbo, static_argnums=1)
    for ours, theirs in zip(parts(model, CONFIG, frames, key), parts(model, CONFIG, spoilt, key), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_imagined_is_the_prior(tiny: tuple[MeldLearner, Trained]) -> None:
    model: LatentModel = tiny[1].networks.model
    n, length = MASK.shape
    actions, noise = tiny_frames().actions, jax.random.normal(jax.random.key(8), (n, length, CONFIG.latent_size))
    start = model.begin(None, noise[:, 0])
    np.testing.assert_array_equal(start.first.mean, np.zeros((n, 3)))
    np.testing.assert_array_equal(start.latent[:, :3], noise[:, 0, :3])
    expected = jax.jit(LatentModel.imagine)(model, start.latent, actions[:, 1:], noise[:, 1:])
    latents = jnp.concatenate([start.latent[:, None], expected.latent], axis=1)
    priors = model.priors(latents, actions)
    np.testing.assert_allclose(expected.first.mean, priors.mean[:, 1:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(expected.first.deviation, priors.deviation[:, 1:], rtol=1e-5, atol=1e-6)
