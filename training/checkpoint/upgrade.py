"""What molstream 0.1 before this layout wrote, in today's names: configurations and the tensors of checkpoints.

Format 1 of configurations names encoders and the objective, and holds the sizes of networks that are not used. In
format 2 of checkpoints the only objective's parameters are called ``objective.*``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

OBJECTIVES = {"moleculesde": "moleculesde_paper", "moleculesde_corrected": "moleculesde"}
NETWORKS = {
    "moleculesde": ("position_transformer", "bond_transformer"),
    "moleculesde_paper": ("position_score", "graph_score"),
}
"""Score networks of the objectives."""


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a run's config.yaml in today's keys; one of today is returned as it is."""
    objective = config.get("objective")
    if not isinstance(objective, Mapping):
        return dict(config)
    if "name" not in objective:
        return {**config, "objective": {name: _unprojected(name, values) for name, values in objective.items()}}
    log, optim = dict(config["log"]), dict(config["optim"])
    log["loggers"] = log.pop("sinks")
    optim["ema_decay"] = optim.pop("average_decay")
    name = objective_name(config["objective"])
    model = upgraded_model(config["model"])
    model |= {network: config["model"][network] for network in NETWORKS[name]}
    return {**config, "log": log, "optim": optim, "model": model, "objective": upgraded_objective(config["objective"])}


def objective_name(objective: Mapping[str, Any]) -> str:
    """Today's name of the objective of a configuration of format 1."""
    return OBJECTIVES[objective["name"]]


def upgraded_objective(objective: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's configuration of format 1 in today's keys."""
    name = objective_name(objective)
    return {name: _unprojected(name, objective[objective["name"]])}


def _unprojected(name: str, values: Any) -> Any:
    """The configuration of an objective; one from before projection heads says that it has none."""
    if name != "moleculesde" or not isinstance(values, Mapping):
        return values
    return {"projection": None, **values}


def upgraded_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """The encoders of a model's configuration of format 1."""
    return {model[side]: model[model[side]] for side in ("encoder_2d", "encoder_3d")}


def upgraded_names(tensors: Mapping[str, Tensor], objective: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint of format 2 by today's names; moments have a prefix before the parameter's name."""
    return {name.replace("objective.", f"objective.{objective}.", 1): tensor for name, tensor in tensors.items()}
