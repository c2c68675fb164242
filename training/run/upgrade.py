"""Configurations of runs that molstream wrote before its keys had today's names."""

from typing import Any

OBJECTIVES = {"moleculesde": "moleculesde_paper", "moleculesde_corrected": "moleculesde"}


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration in today's keys; one of today is returned as it is.

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
