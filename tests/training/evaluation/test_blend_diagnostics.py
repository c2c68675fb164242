"""How well relations are recovered, and the references beside it, counted pair by pair."""

from collections import Counter, defaultdict

import pytest
import torch

from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.evaluation.blend_diagnostics import BIN, BlendRecorder
from molstream.training.evaluation.diagnose import tables
from molstream.training.evaluation.diagnostics import diagnose
from molstream.training.models.blending import DISTANCE, PATH_BONDS, PATH_LENGTH
from molstream.training.models.encoders import Encoders
from molstream.training.module import build_module
from molstream.training.objectives.config import MoleBLENDConfig
from molstream.training.objectives.moleblend import MAX_HOPS, UNKNOWN, MoleBLEND, Recovered
from tests.support.molecules import AWKWARD, DRUGS, model_config, molecule_batch, objective_config, seeded, tiny_model

BATCHES = (molecule_batch(DRUGS[:6]), molecule_batch([*DRUGS[6:10], *AWKWARD], [True, True, False, True] + [True] * 10))


def recovered(**options) -> list[tuple[Recovered, MoleculeBatch]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_config("moleblend_tiny")
        objective, encoders = MoleBLEND(MoleBLENDConfig(**options), model, Labels.unknown()), Encoders(model)
    with torch.no_grad():
        return [(objective.recover(batch, encoders, seeded(k)), batch) for k, batch in enumerate(BATCHES)]


def diagnosis(found):
    recorder = BlendRecorder()
    for each, batch in found:
        recorder.add(each, batch.has_pos)
    return recorder.diagnosis()


def look(found: Recovered, row: int) -> tuple:
    """What is shown of a pair."""
    relation = int(found.blend.relation[row])
    shown = {
        PATH_LENGTH: lambda: int(found.truth.length[row]),
        PATH_BONDS: lambda: tuple(found.truth.bonds[row].tolist()),
        DISTANCE: lambda: int(found.truth.vector[row].norm() / BIN),
    }
    return relation, shown[relation]()


def accuracies(entries: list[tuple]) -> dict[str, float]:
    """From what is shown, the true class and the predicted one of each entry."""
    by_look = defaultdict(Counter)
    for shown, label, _ in entries:
        by_look[shown][label] += 1
    return {
        "count": len(entries),
        "predicted": sum(label == guess for _, label, guess in entries) / len(entries),
        "majority": Counter(label for _, label, _ in entries).most_common(1)[0][1] / len(entries),
        "given_shown": sum(counts.most_common(1)[0][1] for counts in by_look.values()) / len(entries),
    }


def test_classes_are_counted_where_they_were_not_shown():
    found = recovered()
    lengths, bonds = [], []
    for each, _ in found:
        for row in range(len(each.molecule)):
            shown, length = look(each, row), int(each.truth.length[row])
            if shown[0] != PATH_LENGTH and length != UNKNOWN:
                lengths.append((shown, length, int(each.length[row].argmax())))
            for hop in range(MAX_HOPS):
                bond = int(each.truth.bonds[row, hop])
                if shown[0] != PATH_BONDS and bond != UNKNOWN:
                    bonds.append(((shown, hop), bond, int(each.bonds[row, hop].argmax())))
    result = diagnosis(found)
    assert vars(result.path_length) == pytest.approx(accuracies(lengths))
    assert vars(result.path_bonds) == pytest.approx(accuracies(bonds))
    assert 0.0 < result.path_length.majority < result.path_length.given_shown < 1.0


def test_errors_of_distances_stand_beside_the_mean_of_pairs_with_as_many_bonds_between_them():
    found = recovered()
    rows = []
    for each, batch in found:
        for row, molecule in enumerate(each.molecule.tolist()):
            if each.blend.relation[row] != DISTANCE and batch.has_pos[molecule]:
                rows.append(
                    (each.truth.vector[row].norm().item(), each.geometry[row].item(), int(each.truth.length[row]))
                )
    by_length = defaultdict(list)
    for true, _, length in rows:
        by_length[length].append(true)
    means = {length: sum(values) / len(values) for length, values in by_length.items()}
    result = diagnosis(found)
    assert result.distance.count == len(rows)
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    assert result.distance.predicted == pytest.approx(mean([abs(guess - true) for true, guess, _ in rows]), rel=1e-5)
    expected = mean([abs(means[length] - true) for true, _, length in rows])
    assert result.distance.given_length == pytest.approx(expected, rel=1e-5)
    assert sum(error.count for error in result.distance_by_angstrom.values()) == len(rows)
    near = [abs(guess - true) for true, guess, _ in rows if 1.0 <= true < 2.0]
    assert result.distance_by_angstrom["1 to 2"].predicted == pytest.approx(mean(near), rel=1e-5)


def test_shares_of_what_was_shown():
    found = recovered()
    relations = torch.cat([each.blend.relation[: len(each.molecule)] for each, _ in found])
    shown = diagnosis(found).shown
    for number, name in enumerate(("path length", "path bonds", "distance")):
        assert shown[name] == pytest.approx((relations == number).double().mean().item())
    assert shown["surroundings"] == pytest.approx(
        torch.cat([each.blend.surroundings for each, _ in found]).double().mean().item()
    )


def test_what_there_is_not_has_no_row():
    shown = {"path_length": 0.0, "path_bonds": 0.0, "distance": 1.0}
    result = diagnosis(recovered(blend=shown))
    assert result.distance is None
    assert result.distance_by_angstrom == {}
    assert result.path_length is not None
    assert diagnosis(recovered(geometry="direction")).distance is None


def test_a_diagnosis_has_it_where_moleblend_is_learned():
    batches = [molecule_batch(DRUGS[:6]), molecule_batch(DRUGS[6:12])]
    module = build_module(tiny_model("moleblend"), objective_config("moleblend"), 0).eval()
    found = diagnose(module, batches, seed=0)
    assert found.blend is not None
    assert found.blend.path_length.count > 0
    assert found.gradient_norm["noise"].keys() == {"encoder_both"}
    titles = [str(table.title) for table in tables(found)]
    assert any("angstrom" in title for title in titles)
    module = build_module(tiny_model("moleblend"), objective_config("moleblend", geometry="direction"), 0).eval()
    assert not any("angstrom" in str(table.title) for table in tables(diagnose(module, batches, seed=0)))
    module = build_module(tiny_model("moleculesde"), objective_config("moleculesde"), 0).eval()
    assert diagnose(module, batches, seed=0).blend is None
