"""Pictures of worlds: points without OpenGL, MuJoCo's with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from extras import NEEDS_METAWORLD
from gymnasium.utils.env_checker import check_env

from nacre.environments import ENVIRONMENTS
from nacre.errors import NacreError
from nacre.tasks import GymnasiumFamily, Simulator, list_families, make_family
from nacre.tasks.gymnasium import FamilyEnv
from nacre.tasks.rendering import PointRenderer, signs_of

GREEN, ORANGE = (38, 166, 76), (217, 84, 26)


def needs_opengl(names):
    """Names of families, of which those of MuJoCo are marked."""
    marks = {
        name: [pytest.mark.opengl] * ("point" not in name) + [NEEDS_METAWORLD] * name.startswith("sawyer")
        for name in names
    }
    return [pytest.param(name, marks=marks[name]) for name in names]


def looks(pixel, colour):
    return abs(pixel.astype(int) - colour).max() <= 2


def test_points_are_where_they_should_be():
    renderer = PointRenderer(300, 200, goal_radius=0.3)
    goal = signs_of(make_family("point-robot"), np.array([0.75, -0.6]))
    picture = renderer.draw(np.array([-1.2, 0.9]), goal)
    assert (picture.shape, picture.dtype) == ((200, 300, 3), np.uint8)
    scale = 200 / 3
    assert looks(picture[round(100 + 0.6 * scale), round(150 + 0.75 * scale)], GREEN)
    assert looks(picture[round(100 + 0.6 * scale), round(150 + (0.75 + 0.25) * scale)], GREEN)
    assert looks(picture[round(100 + 0.6 * scale), round(150 + (0.75 + 0.35) * scale)], (255, 255, 255))
    assert looks(picture[round(100 - 0.9 * scale), round(150 - 1.2 * scale)], ORANGE)
    hidden = renderer.draw(np.array([-1.2, 0.9]))
    assert not (abs(hidden.astype(int) - GREEN).max(axis=2) <= 2).any()
    beyond = renderer.draw(np.array([7.0, 0.0]))
    np.testing.assert_array_equal(beyond, renderer.draw(np.array([1.5, 0.0])))
    assert looks(beyond[100, 249], ORANGE)


@pytest.mark.parametrize(
    ("family", "task", "goal", "direction"),
    [
        ("ant-goal", [1.5, -2.0], [1.5, -2.0], None),
        ("humanoid-dir", [0.6, 0.8], None, [0.6, 0.8]),
        ("cheetah-dir", [-1.0], None, [-1.0, 0.0]),
        ("cheetah-vel", [1.2], None, None),
        ("cheetah-goal-sparse", [2.5], [2.5, 0.0], None),
        ("cheetah-multi-task", [2.0, 2.5], None, None),
    ],
)
def test_what_a_task_shows(family, task, goal, direction):
    signs = signs_of(make_family(family), np.array(task))
    for sign, expected in ((signs.goal, goal), (signs.direction, direction)):
        assert (sign is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(sign, expected)


@pytest.mark.parametrize("name", needs_opengl(list_families()))
def test_every_family_can_be_drawn(name):
    family = make_family(name)
    simulator = Simulator(family, 2, threads=1)
    generator = np.random.default_rng(0)
    simulator.reset(seed=0, options={"tasks": family.sample_tasks(generator, 2)})
    first = simulator.configurations()
    for _ in range(5):
        simulator.step(generator.uniform(-1, 1, (2, family.action_size)).astype(np.float32))
    later = simulator.configurations()
    assert (first != later).any(axis=1).all()
    assert 4 <= round(simulator.frames_per_second, 6) <= 125

    renderer = simulator.make_renderer(96, 64)
    pictures = [renderer.draw(configuration) for configuration in (*first, *later)]
    assert all(picture.shape == (64, 96, 3) and picture.dtype == np.uint8 for picture in pictures)
    assert len({picture.tobytes() for picture in (pictures[0], *pictures[2:])}) == 3  # the beginnings may be equal
    np.testing.assert_array_equal(renderer.draw(first[0]), pictures[0])  # whatever was drawn in between
    renderer.close()
    renderer.close()
    other = simulator.make_renderer(96, 64)
    np.testing.assert_array_equal(other.draw(later[1]), pictures[3])
    other.close()
    simulator.close()


@pytest.mark.opengl
@pytest.mark.parametrize(
    ("name", "task", "side"),
    [
        ("ant-goal", [2.5, 0.0], 1),
        ("ant-goal", [-2.5, 0.0], -1),
        ("cheetah-dir", [-1.0], -1),
        ("ant-dir", [1.0, 0.0], 1),
    ],
)
def test_goals_and_directions_are_seen_on_their_side(name, task, side):
    family = make_family(name)
    simulator = Simulator(family, 1, threads=1)
    simulator.reset(seed=0, options={"tasks": np.array([task])})
    renderer = simulator.make_renderer(160, 120)
    (configuration,) = simulator.configurations()

    def green(picture):
        red, green, blue = np.moveaxis(picture.astype(int), 2, 0)
        return np.nonzero((green - red > 40) & (green - blue > 40))[1] - 80

    assert green(renderer.draw(configuration)).size == 0
    columns = green(renderer.draw(configuration, signs_of(family, np.array(task))))
    assert columns.size > 20
    assert side * columns.mean() > 5
    renderer.close()
    simulator.close()


@pytest.mark.opengl
def test_the_camera_goes_along():
    family = make_family("cheetah-vel")
    simulator = Simulator(family, 1, threads=1)
    simulator.reset(seed=0, options={"tasks": np.array([[1.0]])})
    (configuration,) = simulator.configurations()
    renderer = simulator.make_renderer(64, 64)
    here = renderer.draw(configuration)
    configuration[0] += 30.0
    there = renderer.draw(configuration)
    body = (here[..., 0].astype(int) - here[..., 2]) > 30  # a cheetah is brown on a grey floor
    assert body.sum() > 30
    assert abs(here.astype(int) - there)[body].mean() < 10
    renderer.close()
    simulator.close()


@pytest.mark.parametrize(
    ("library", "chosen", "advice", "not_this"),
    [
        (None, None, "apt install libegl1 libgl1 libgl1-mesa-dri", "MUJOCO_GL"),
        ("libEGL.so.1", None, "EGL is installed.*MUJOCO_EGL_DEVICE_ID.*MUJOCO_GL=osmesa", "apt install"),
        ("libEGL.so.1", "glfw", "MUJOCO_GL is 'glfw'; without it nacre takes EGL", "apt install"),
    ],
)
def test_without_opengl_one_sentence_says_what_to_do(library, chosen, advice, not_this):
    code = (
        f"import ctypes.util; ctypes.util.find_library = lambda name: {library!r}\n"
        "from nacre.tasks import make_family; make_family('cheetah-vel').make_world(1, 1).make_renderer(64, 64)"
    )
    environment = {**os.environ, "MUJOCO_EGL_DEVICE_ID": "99"}  # fails with EGL as well as without
    environment = {name: value for name, value in environment.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    if chosen is not None:
        environment["MUJOCO_GL"] = chosen
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    last = done.stderr[done.stderr.index("nacre.errors.NacreError: ") :]
    assert "Nothing can be drawn, as OpenGL does not work here" in last
    assert re.search(advice, last)
    assert not_this not in last.replace("MUJOCO_EGL_DEVICE_ID environment", "")
    assert "Exception ignored" not in done.stderr


@pytest.mark.opengl
@pytest.mark.parametrize("chosen", ["", "egl"])  # "": as if it were not set
def test_renderers_that_nobody_closes_end_quietly(chosen):
    code = (
        "from nacre.tasks import PixelFamily, make_family\n"
        "family = make_family('cheetah-vel')\n"
        "world = family.make_world(1, 1)\n"
        "kept = [world.make_renderer(64, 64) for _ in range(2)]; import threading; threading.kept = kept\n"
        "world.make_renderer(32, 32)\n"
        "threading.pictures = PixelFamily(family).make_world(4, 2)"  # longer than OpenGL is there
    )
    environment = {**os.environ, "MUJOCO_GL": chosen}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert "Exception ignored" not in done.stderr


def test_importing_the_families_needs_no_opengl():
    code = "import sys, nacre.tasks; sys.exit('mujoco.egl' in sys.modules or 'OpenGL' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", needs_opengl(["point-robot", "humanoid-dir"]))
def test_gymnasium_renders(name):
    environment_id = next(identifier for identifier, (family, _) in ENVIRONMENTS.items() if family == name)
    env = gymnasium.make(environment_id, render_mode="rgb_array")  # warnings are errors here
    check_env(env.unwrapped)
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make(environment_id, render_mode="rgb_array").unwrapped.render()
    assert env.metadata["render_fps"] == {"point-robot": 10.0, "humanoid-dir": pytest.approx(200 / 3)}[name]
    task = [0.5, -0.25]
    env.reset(seed=0, options={"task": task})
    start = env.render()
    assert (start.shape, start.dtype) == ((480, 480, 3), np.uint8)
    for _ in range(3):
        env.step(np.ones(env.action_space.shape, np.float32))
    assert (env.render() != start).any()
    if name == "point-robot":
        assert looks(env.render()[round(240 + 0.25 * 160), round(240 + 0.5 * 160)], GREEN)
    env.close()


def test_gymnasium_without_a_render_mode():
    env = gymnasium.make("nacre/PointRobot-v0")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render shows nothing unless"):
        assert env.unwrapped.render() is None
    with pytest.raises(NacreError, match="render_mode is 'ansi'; allowed: None, 'rgb_array'"):
        FamilyEnv("point-robot", render_mode="ansi")


def test_a_family_that_cannot_be_drawn():
    family = GymnasiumFamily(
        name="pendulum",
        make_env=lambda: gymnasium.make("Pendulum-v1").unwrapped,
        set_task=lambda env, task: None,
        sample_tasks=lambda generator, n: generator.uniform(5, 15, (n, 1)),
        task_parameters=("gravity",),
        horizon=5,
    )
    FamilyEnv(family).close()
    for needs_drawing in (
        lambda: FamilyEnv(family, render_mode="rgb_array"),
        lambda: Simulator(family, 1).make_renderer(8, 8),
        lambda: Simulator(family, 1).configurations(),
        lambda: Simulator(family, 1).frames_per_second,
    ):
        with pytest.raises(NacreError, match="The family pendulum cannot be drawn"):
            needs_drawing()
