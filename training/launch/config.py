"""The configuration of a supervised job."""

from typing import Annotated

from pydantic import Field, NonNegativeInt

from molstream.config import configuration


@configuration
class SuperviseConfig:
    """Keep a job of many hosts running on those that are left: restart it after a crash or a lost host."""

    restarts: NonNegativeInt = 3
    """Maximum consecutive restarts without a new checkpoint; each new one resets the count."""
    host_timeout_s: Annotated[float, Field(ge=6)] = 30.0
    """Seconds of silence after which a host is lost; it has ended its part of the job after two thirds of them."""
    remote_shell: str = "ssh -o BatchMode=yes -o ConnectTimeout=10"
    """Command that runs a command on a host, given the host's name; `ssh_port` of the launcher is added."""
