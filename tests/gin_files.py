"""MELD's published gin files, as far as they bind something (spec meld 3.1 to 3.3), with values as they are in them."""

from __future__ import annotations

from pathlib import Path

RULER = "#" * 60

DENSE = f"""
{RULER}
# algorithm
{RULER}
train_eval.critic_input='latentDistribution'
train_eval.actor_input='latentDistribution'
ModelDistributionNetwork.model_input = 'image'
ModelDistributionNetwork.name = 'ModelDistributionNetwork'
ModelDistributionNetwork.base_depth = 32
ModelDistributionNetwork.kl_analytic = True
ModelDistributionNetwork.model_reward = True
ModelDistributionNetwork.latent1_size = 32
ModelDistributionNetwork.latent2_size = 256
ModelDistributionNetwork.sparse_reward_inputs = False
ModelDistributionNetwork.sparse_reward_targets = False
MeldAgent.actor_input_stop_gradient = True
MeldAgent.critic_input_stop_gradient = True
"""

CHEETAH = """
# environment
train_eval.env_name = 'HalfCheetahVel-v0'
train_eval.action_repeat = 1
train_eval.actor_fc_layers=(256, 256)
train_eval.critic_obs_fc_layers=None
train_eval.critic_action_fc_layers=None
train_eval.critic_joint_fc_layers=(256, 256)
train_eval.num_repeat_when_concatenate = 32
train_eval.double_camera = False
"""


def arm(environment: str, camera: str, width: int, mode: str = "joint_delta_position") -> str:
    return f"""
train_eval.env_name = '{environment}'
train_eval.action_repeat = 1
train_eval.action_mode = '{mode}'
train_eval.actor_fc_layers=({width}, {width})
train_eval.critic_obs_fc_layers=None
train_eval.critic_action_fc_layers=None
train_eval.critic_joint_fc_layers=({width}, {width})
train_eval.num_repeat_when_concatenate = 32
RenderGymWrapper.goal_visibile_only_in_videos = True
train_eval.double_camera = True
PixelObservationsGymWrapper.auxCamSettings = {{'width': 64, 'height': 64, 'depth': False,
   'camera_name': '{camera}',
   }}
"""


CHEETAH_TRIAL = """
train_eval.max_episode_len_override=50
ModelDistributionNetwork.elbo_reward_weight=16
ModelDistributionNetwork.latent1_size=64
ModelDistributionNetwork.latent2_size=32
ModelDistributionNetwork.reward_stddev=0.2
ModelDistributionNetwork.base_depth=64
train_eval.stop_model_training=500000

train_eval.episodes_per_trial=1
train_eval.num_train_tasks=20
train_eval.num_eval_tasks=10
train_eval.eval_interval=100
train_eval.num_eval_trials=10
train_eval.eval_on_holdout_tasks = True

train_eval.init_collect_trials_per_task=20
train_eval.init_model_train_ratio=0.3
train_eval.replay_buffer_capacity=10000

train_eval.num_tasks_to_collect_per_iter=1
train_eval.collect_trials_per_task=1
train_eval.num_tasks_per_train=10
train_eval.train_trials_per_task=1
train_eval.model_bs_in_steps=256
train_eval.ac_bs_in_steps=256
train_eval.model_train_ratio=0.8
train_eval.ac_train_ratio=0.8
train_eval.model_train_freq=1
train_eval.ac_train_freq=1

train_eval.num_iterations=10000000
train_eval.seed=0
train_eval.gpu_allow_growth=False
train_eval.verbose=True
train_eval.policy_checkpoint_freq_in_iter=1000
train_eval.logging_freq_in_iter=10
train_eval.summary_freq_in_iter=200
train_eval.num_images_per_summary=2
"""


def trial(**changes: object) -> str:
    """The third file of another experiment than the half-cheetah's. None: it is not bound."""
    common = {"elbo_reward_weight": 10, "model_bs_in_steps": 512, "ac_bs_in_steps": 512, "summary_freq_in_iter": 20}
    values = common | {"policy_checkpoint_freq_in_iter": 25, "max_episode_len_override": None} | changes
    lines = []
    for line in CHEETAH_TRIAL.splitlines():
        key, equals, _ = line.partition("=")
        name = key.strip().partition(".")[2]
        value = values.pop(name, ...)
        lines.append(line if value is ... else "" if value is None else f"{key}{equals}{value}")
    return "\n".join([*lines, *(f"train_eval.{name}={value}" for name, value in values.items()), ""])


REACHER_TRIAL = trial(num_train_tasks=60, init_collect_trials_per_task=2, num_tasks_per_train=20, ac_train_ratio=0.5)
BUTTONS_TRIAL = trial(
    stop_model_training=None,
    num_train_tasks=15,
    num_eval_tasks=12,
    init_collect_trials_per_task=5,
    num_tasks_per_train=15,
    ac_train_ratio=0.5,
)
SPARSE_BUTTONS_TRIAL = trial(
    stop_model_training=None,
    max_episode_len_override=30,
    episodes_per_trial=2,
    num_train_tasks=15,
    num_eval_tasks=12,
    init_collect_trials_per_task=5,
    num_tasks_per_train=15,
    ac_train_ratio=0.5,
    load_offline_data=True,
    offline_ratio=0.3,
)
LARGE = {"stop_model_training": None, "latent1_size": 128, "latent2_size": 64, "num_tasks_per_train": 20}
PEG_TRIAL = trial(
    **LARGE, num_train_tasks=30, init_collect_trials_per_task=5, model_train_ratio=0.3, ac_train_ratio=0.3
)
SHELF_TRIAL = trial(**LARGE, num_train_tasks=40, model_train_ratio=0.3, ac_train_ratio=0.3)

REACHER = arm("SawyerReachMT-v0", "track_aux_reach", 256)
PEG = arm("SawyerPegMT4box-v0", "track_aux_insert", 512)
BUTTONS = arm("SawyerButtons-v0", "track_aux_insert", 512)
SHELF = arm("SawyerShelfMT-v0", "track_aux_shelf2", 256, mode="torque")

FILES = {
    "0_meld_dense.gin": DENSE,
    "0_meld_sparse.gin": DENSE.replace("sparse_reward_inputs = False", "sparse_reward_inputs = True"),
    "1_cheetahVel.gin": CHEETAH,
    "1_sawyerReacher.gin": REACHER,
    "1_sawyerPeg.gin": PEG,
    "1_sawyerButtons.gin": BUTTONS,
    "1_sawyerShelf.gin": SHELF,
    "2_cheetahVel_1episode.gin": CHEETAH_TRIAL,
    "2_sawyerReacher_1episode.gin": REACHER_TRIAL,
    "2_sawyerPeg_1episode.gin": PEG_TRIAL,
    "2_sawyerButtons_1episode.gin": BUTTONS_TRIAL,
    "2_sawyerButtons_2episodes_sparse.gin": SPARSE_BUTTONS_TRIAL,
    "2_sawyerShelf_1episode.gin": SHELF_TRIAL,
}

SETS = {
    "meld/cheetah-vel": ("0_meld_dense", "1_cheetahVel", "2_cheetahVel_1episode"),
    "meld/reacher": ("0_meld_dense", "1_sawyerReacher", "2_sawyerReacher_1episode"),
    "meld/peg": ("0_meld_dense", "1_sawyerPeg", "2_sawyerPeg_1episode"),
    "meld/buttons": ("0_meld_dense", "1_sawyerButtons", "2_sawyerButtons_1episode"),
    "meld/buttons-sparse": ("0_meld_sparse", "1_sawyerButtons", "2_sawyerButtons_2episodes_sparse"),
    "meld/shelf": ("0_meld_dense", "1_sawyerShelf", "2_sawyerShelf_1episode"),
}
"""The three files of each published experiment."""


def write_files(folder: Path) -> None:
    """Writes them all."""
    for name, text in FILES.items():
        (folder / name).write_text(text)


def write_set(folder: Path, experiment: str) -> list[Path]:
    """Writes the files of an experiment."""
    paths = [folder / f"{name}.gin" for name in SETS[experiment]]
    for path in paths:
        path.write_text(FILES[path.name])
    return paths
