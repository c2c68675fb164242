"""The learning rate is a pure function of the step; parameters fall into groups by scale and decay."""

import math

import pytest
from torch import nn

from molstream.errors import ConfigError
from molstream.training.optim.config import OptimConfig
from molstream.training.optim.optimizer import build_optimizer
from molstream.training.optim.schedule import learning_rate, same_so_far


def test_warm_up_then_cosine_to_the_floor():
    config = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=10, final_lr_fraction=0.1)
    rates = [learning_rate(config, step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[60] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[10] == 1.0
    assert learning_rate(config, 110, 110) == pytest.approx(0.1)


def test_warm_up_then_a_plateau_then_a_line_down():
    config = OptimConfig(lr=1.0, schedule="wsd", warmup_steps=10, final_lr_fraction=0.1, decay_fraction=0.2)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[10:81] == [1.0] * 71
    assert rates[90] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("schedule", "done", "expected"),
    [
        ("constant", 100, True),
        ("wsd", 80, True),
        ("wsd", 82, False),
        ("cosine", 10, True),
        ("cosine", 12, False),
    ],
)
def test_a_run_can_be_extended_while_the_schedule_has_not_gone_by_its_length(schedule, done, expected):
    config = OptimConfig(lr=1.0, schedule=schedule, warmup_steps=10, decay_fraction=0.2)
    assert same_so_far(config, done, 100, 200) is expected


def test_groups_carry_their_scale_and_vectors_do_not_decay():
    module = nn.ModuleDict({"slow": nn.Linear(2, 3), "fast": nn.Linear(2, 3)})
    config = OptimConfig(lr=0.5, weight_decay=0.1)
    optimizer, scales = build_optimizer(module, config, lambda name: 0.1 if name.startswith("slow") else 1.0)
    found = {
        (scale, group["weight_decay"]): sum(p.numel() for p in group["params"])
        for scale, group in zip(scales, optimizer.param_groups)
    }
    assert found == {(0.1, 0.1): 6, (0.1, 0.0): 3, (1.0, 0.1): 6, (1.0, 0.0): 3}


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="schedule=linear: expected one of constant, cosine, wsd"):
        OptimConfig(schedule="linear")
    with pytest.raises(ConfigError, match="name=sgd: expected one of adamw, muon"):
        OptimConfig(name="sgd")
    with pytest.raises(ConfigError, match=r"ema_decay=1.0: expected a number below 1"):
        OptimConfig(ema_decay=1.0)
