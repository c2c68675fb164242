"""Prediction of targets: the masked multi-task loss against numpy and sklearn, and what is left out or refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_squared_error

from molstream.errors import ConfigError
from molstream.training.data.labels import Labels, LabelTable
from molstream.training.models.encoders import Encoders
from molstream.training.objectives.config import ObjectiveConfig, TargetsConfig
from molstream.training.objectives.prediction import NormalScores, Winsorised
from molstream.training.objectives.table import build_objective
from molstream.training.objectives.targets import Targets
from tests.support.molecules import DRUGS, described, model_config, molecule_batch, seeded, table_of

MODEL = model_config("tiny")
ONE_ENCODER = replace(MODEL, geometry_transformer=None)
NAMES = ("number", "class", "rare", "constant", "nowhere")
COUNT = 12
"""Molecules, and values of the statistics."""


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def values() -> np.ndarray:
    """float32 [12, 5]: a number, two classes, a constant and nothing; a third missing, molecule 3 without any."""
    rng = np.random.default_rng(1)
    found = np.stack([rng.lognormal(size=COUNT), np.arange(COUNT) % 2, np.arange(COUNT) == 7], 1)
    found[rng.random(found.shape) < 0.3] = np.nan
    found[3] = np.nan
    found[7, 2] = 1.0
    rest = np.stack([np.full(COUNT, 0.1), np.full(COUNT, np.nan)], 1)
    return np.concatenate([found, rest], 1).astype(np.float32)


VALUES = values()
BATCH = replace(molecule_batch(DRUGS[:COUNT]), y=torch.from_numpy(VALUES))


def build(found=VALUES, names=NAMES, model=MODEL, **options):
    labels = Labels(LabelTable.of({}), table_of(names, found))
    return Targets(TargetsConfig(**options), model, labels), Encoders(model)


def randomised(objective: Targets) -> Targets:
    for head in objective.heads.values():
        torch.nn.init.normal_(head[-1].weight)
    return objective


@pytest.mark.parametrize(("transform", "kind"), [("rank", NormalScores), ("winsorise", Winsorised)])
def test_the_loss_is_the_mean_over_molecules_of_the_mean_over_known_targets(transform, kind):
    objective, encoders = build(transform=transform)
    randomised(objective)
    batch = replace(BATCH, has_pos=torch.tensor([True] * 9 + [False] * 3))
    terms = objective.terms(batch, encoders, seeded())
    assert list(terms) == ["targets 2D", "targets 3D"]
    numbers = kind(table_of("a", VALUES[:, :1]))(torch.from_numpy(VALUES[:, :1]))[0].double().numpy()
    for modality, counted in (("2d", range(12)), ("3d", range(9))):
        predicted = objective.heads[modality](encoders.molecules(modality, batch)).detach().double().numpy()
        rows = []
        for k in counted:
            known = [bool(np.isfinite(value)) for value in VALUES[k, :3]]
            losses = [mean_squared_error(numbers[k], predicted[k, :1])] if known[0] else []
            for column in (1, 2):
                if known[column]:
                    chance = 1 / (1 + np.exp(-predicted[k, column]))
                    losses.append(log_loss([VALUES[k, column]], [[1 - chance, chance]], labels=[0, 1]) / np.log(2))
            rows += [np.mean(losses)] if losses else []
        assert len(rows) == len(counted) - 1
        term = terms[f"targets {modality.upper()}"]
        assert term.loss.item() == pytest.approx(np.mean(rows), rel=1e-5)
        assert (term.coefficient, term.metrics) == (0.5, {f"{modality}_loss": term.loss})


def test_knowing_nothing_costs_a_bit_for_classes_and_the_variance_for_numbers():
    objective, encoders = build(VALUES[:, 1:3], NAMES[1:3], ONE_ENCODER)
    batch = replace(BATCH, y=BATCH.y[:, 1:3])
    assert objective.terms(batch, encoders, seeded())["targets 2D"].loss.item() == pytest.approx(1.0, rel=1e-6)
    numbers = np.random.default_rng(0).normal(5.0, 3.0, (COUNT, 1)).astype(np.float32)
    objective, encoders = build(numbers, ("a",), ONE_ENCODER, transform="winsorise")
    batch = replace(BATCH, y=torch.from_numpy(numbers))
    assert objective.terms(batch, encoders, seeded())["targets 2D"].loss.item() == pytest.approx(1.0, rel=1e-5)


def test_a_batch_without_any_target_has_a_loss_of_zero_and_gradients():
    objective, encoders = build(model=ONE_ENCODER)
    randomised(objective)
    loss = objective.terms(replace(BATCH, y=torch.full((COUNT, 5), torch.nan)), encoders, seeded())["targets 2D"].loss
    loss.backward()
    assert loss.item() == 0.0
    assert all((parameter.grad == 0).all() for parameter in objective.parameters())


def test_a_missing_target_has_no_gradient():
    objective, encoders = build(model=ONE_ENCODER)
    randomised(objective)
    only = torch.full((COUNT, 5), torch.nan)
    only[0, 1] = 1.0
    objective.terms(replace(BATCH, y=only), encoders, seeded())["targets 2D"].loss.backward()
    gradient = objective.heads["2d"][-1].bias.grad
    assert (gradient != 0).tolist() == [False, True, False]


def test_columns_are_chosen_by_name_in_any_order():
    chosen, encoders = build(model=ONE_ENCODER, columns=["rare", "number"])
    assert chosen.is_class.tolist() == [True, False]
    label, known = chosen.labels(BATCH)
    every, every_known = build(model=ONE_ENCODER)[0].labels(BATCH)
    assert torch.equal(label, every[:, [2, 0]])
    assert torch.equal(known, every_known[:, [2, 0]])
    assert chosen.notes == ()
    assert chosen.terms(BATCH, encoders, seeded())["targets 2D"].loss.isfinite()


def test_classes_beyond_0_and_1_which_the_statistics_do_not_count_are_the_nearer_one():
    objective, _ = build(model=ONE_ENCODER, columns=["class"])
    found, known = objective.labels(
        replace(BATCH, y=torch.tensor([[0.0, -3.0, 0.0, 0.0, 0.0], [0.0, 7.0, 0.0, 0.0, 0.0]]))
    )
    assert found.tolist() == [[0.0], [1.0]]
    assert known.all()


def test_what_is_left_out_is_counted_and_named():
    objective, _ = build()
    assert objective.is_class.tolist() == [False, True, True]
    assert objective.heads["2d"][-1].out_features == 3
    assert objective.notes == (
        "objective=targets leaves out 2 of 5 targets: 1 known for no molecule ('nowhere'), 1 with one value for all "
        "molecules ('constant').",
    )
    many = [f"t{k}" for k in range(20)]
    constant = np.concatenate([VALUES[:, :1], np.ones((COUNT, 19), np.float32)], 1)
    [note] = build(constant, many)[0].notes
    assert "leaves out 19 of 20 targets: 19 with one value for all molecules ('t1', " in note
    assert "'t8', ...)" in note
    assert "known for no" not in note


@pytest.mark.parametrize(
    ("found", "names", "options", "message"),
    [
        (VALUES[:, :0], (), {}, r"expected a dataset with targets and their statistics, got none.*target_columns="),
        (VALUES, NAMES, {"columns": ["Number", "class"]}, r"has no target 'Number'; it has 'number', 'class', 'rare'"),
        (VALUES, NAMES, {"columns": ["nowhere"]}, r"leaves out 1 of 1 targets: 1 known for no molecule .* others"),
        (VALUES[:, 3:4], NAMES[3:4], {}, r"leaves out 1 of 1 targets: 1 with one value for all molecules"),
        (VALUES[:, 3:], NAMES[3:], {}, r"leaves out 2 of 2 targets: 1 known .*, 1 with one value .* Nothing is left"),
    ],
)
def test_what_cannot_be_learned_is_refused(found, names, options, message):
    with pytest.raises(ConfigError, match=message):
        build(found, names, **options)


@pytest.mark.parametrize("columns", [[], ["a", "a"]])
def test_columns_name_each_target_once(columns):
    with pytest.raises(ConfigError, match=r"objective.targets.columns=\[.*at least one target, each named once"):
        TargetsConfig(columns=columns)


def test_it_is_combined_with_other_objectives():
    smiles = DRUGS[:8]
    batch, labels = described(molecule_batch(smiles), smiles)
    config = ObjectiveConfig(descriptors={"weight": 2.0}, targets={"weight": 0.5})
    objective, encoders = build_objective(config, MODEL, labels), Encoders(MODEL)
    assert {"descriptors", "targets"} <= objective.required_fields
    output = objective(batch, encoders, seeded())
    losses = {name: part(batch, encoders, seeded()).loss for name, part in objective.parts.items()}
    assert output.loss.item() == pytest.approx((2.0 * losses["descriptors"] + 0.5 * losses["targets"]).item(), rel=1e-6)
    assert output.metrics["targets/loss"].item() == pytest.approx(losses["targets"].item(), rel=1e-6)
    assert {"targets/2d_loss", "targets/3d_loss", "descriptors/2d_loss"} <= output.metrics.keys()
    # What a part leaves out is told of the whole.
    some = replace(labels, targets=table_of(("a", "b"), np.array([[1.0, 2.0], [2.0, 2.0]], np.float32)))
    assert build_objective(config, MODEL, some).notes[0].startswith("objective=targets leaves out 1 of 2 targets")


def test_a_batch_is_learned():
    objective, encoders = build(model=ONE_ENCODER)
    optimizer = torch.optim.AdamW([*objective.parameters(), *encoders.parameters()], 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective.terms(BATCH, encoders, seeded())["targets 2D"].loss
        loss.backward()
        optimizer.step()
    assert loss < 0.02
