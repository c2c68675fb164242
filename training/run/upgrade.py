"""Translates the configuration of a run that was written with former names of keys."""

from typing import Any

OBJECTIVES = {"moleculesde": "moleculesde_paper", "moleculesde_corrected": "moleculesde"}
"""Current names of objectives by their former names."""


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """Rename the former keys of a configuration; one with current keys is returned unchanged.

    Args:
        config: content of a run's config.yaml.
    """
    objective = config.get("objective", {})
    if "sinks" not in config.get("log", {}):
        return config
    log, optim = dict(config["log"]), dict(config["optim"])
    log["loggers"] = log.pop("sinks")
    optim["ema_decay"] = optim.pop("average_decay")
    objective = {OBJECTIVES.get(key, key): value for key, value in objective.items()}
    objective["name"] = OBJECTIVES[objective["name"]]
    return {**config, "log": log, "optim": optim, "objective": objective}
