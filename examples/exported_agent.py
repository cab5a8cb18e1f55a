"""Plays a trial of the point robot with an agent that `nacre export` wrote. It needs JAX and NumPy, and no nacre.

nacre export runs/first --out agent.zip
python examples/exported_agent.py agent.zip
"""

import json
import sys
import zipfile

import jax
import jax.export
import numpy as np

with zipfile.ZipFile(sys.argv[1]) as archive:
    about = json.loads(archive.read("agent.json"))
    files = [about["programs"][name]["file"] for name in ("begin_trial", "act", "observe")]
    begin_trial, act, observe = (jax.jit(jax.export.deserialize(bytearray(archive.read(file))).call) for file in files)
    with np.load(archive.open("parameters.npz")) as arrays:
        parameters = [arrays[str(number)] for number in range(len(arrays))]

n, horizon, goal = about["slots"], about["horizon"], np.array([0.6, -0.7], np.float32)
everywhere, nowhere = np.ones(n, bool), np.zeros(n, bool)
state = begin_trial(parameters, np.uint32(0))  # a random seed
for episode in range(3):
    position, total = np.zeros((n, 2), np.float32), 0.0
    for step in range(horizon):
        action, state = act(parameters, state, position, everywhere, np.bool_(True))  # True: deterministic
        position = position + np.float32(0.1) * np.asarray(action)
        reward = -np.linalg.norm(position - goal, axis=-1)
        truncated = everywhere if step == horizon - 1 else nowhere
        state = observe(parameters, state, position, reward, reward, nowhere, truncated)
        total += float(reward.mean())
    print(f"episode {episode + 1}: return {total:.2f}")
