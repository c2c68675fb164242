"""The training engine: the only module that imports DeepSpeed. One process or many, CPU (gloo) or GPU (nccl)."""

import collections
import os
import socket
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from preprocessing.errors import CheckpointError, ConfigError
from training.buffers import LaneAveragedStatistics
from training.weights import load_weights

MOMENTS = ("exp_avg", "exp_avg_sq")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class EngineConfig:
    """How DeepSpeed spreads and computes a step; none of it changes what is learned beyond rounding."""

    zero_stage: int = 1
    """ZeRO stage: 0 replicates, 1 shards the optimizer state, 2 DeepSpeed's gradients too (not the fp64 sums)."""
    precision: str = "fp32"
    """fp32, or bf16: networks in bfloat16 autocast over fp32 weights; geometry and losses stay in fp32."""
    bucket_size: int = 50_000_000
    """Elements that are reduced at a time in ZeRO 1 and 2."""
    timeout_s: int = 600
    """Seconds after which a collective whose peer is gone fails."""

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1, 2):
            raise ConfigError(f"deepspeed.zero_stage={self.zero_stage}: expected 0, 1 or 2.")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"deepspeed.precision={self.precision}: expected one of {', '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class Place:
    """Where this process stands: rank of world_size, on which device."""

    rank: int
    world_size: int
    device: torch.device


def start_processes(config: EngineConfig) -> Place:
    """Join the process group of the launcher (deepspeed, torchrun), or form one of a single process."""
    # MKL else rounds by where in memory a matrix begins, and that depends on how ZeRO lays out the parameters. It reads
    # this once, at its first product.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    alone = "RANK" not in os.environ
    if alone:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # torch deprecates collectives that DeepSpeed calls at every step; neither is the user's concern.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    accelerator: Any = get_accelerator()
    if accelerator.device_name() == "cpu":
        # Otherwise every CPU run compiles a shared-memory kernel for inference that training never calls.
        deepspeed.ops.__dict__["__compatible_ops__"] = collections.defaultdict(bool)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timedelta(seconds=config.timeout_s))
    device = torch.device(accelerator.device_name(None if accelerator.device_name() == "cpu" else local_rank))
    return Place(dist.get_rank(), dist.get_world_size(), device)


def stop_processes() -> None:
    """Leave the process group, all together: whoever leaves first takes away what the others may still need."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def end_process(code: int) -> NoReturn:
    """End a process that has been one of several, at once, after what it printed is out.

    Threads of gloo outlive the process group, as DeepSpeed still refers to it, and now and then one of them aborts an
    interpreter that takes its time to end ("terminate called without an active exception").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Engine:
    """A module under DeepSpeed: accumulate over lanes, step, and read or write its whole state by parameter name.

    Gradients of the lanes are added in fp64 before DeepSpeed sees them. A sum of fp32 numbers of similar size is exact
    there, whatever its order, so a step is the same to the last bit however the lanes are spread over processes (a
    power of two of them: DeepSpeed then averages equal numbers, which is exact too). In fp32 the order of the sums
    would differ with the number of processes, and training amplifies that: 1e-7 at one step became 1e-2 in the loss
    of MoleculeSDE within fifty. The price is 8 bytes per parameter and process, and as much to send.

    Args:
        module: fp32 parameters; its forward returns an object with a scalar ``loss``.
        optimizer: AdamW over the module's parameters.
        config: ZeRO stage and precision.
        place: from :func:`start_processes`.
        lanes, micro_batch: the global batch is their product; a process accumulates ``lanes / world_size`` lanes.
        gradient_clipping: bound on the global L2 norm of the gradient; 0 for none.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.AdamW,
        config: EngineConfig,
        place: Place,
        *,
        lanes: int,
        micro_batch: int,
        gradient_clipping: float,
    ):
        import deepspeed

        self.place, self.config = place, config
        self._lanes, self._clipping = lanes, gradient_clipping
        per_process = lanes // place.world_size * micro_batch
        settings: dict[str, Any] = {
            "train_batch_size": lanes * micro_batch,
            "train_micro_batch_size_per_gpu": per_process,
            "gradient_accumulation_steps": 1,
            # Clipped in `step`, by the norm of the exact sum; left out, DeepSpeed would clip at its own default.
            "gradient_clipping": 0.0,
            "steps_per_print": 2**31,
            "zero_optimization": {
                "stage": config.zero_stage,
                "reduce_bucket_size": config.bucket_size,
                "allgather_bucket_size": config.bucket_size,
            },
        }
        # Any: what DeepSpeed returns, and what its optimizer is, depends on the stage.
        self._engine: Any = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
        self.module = module
        self._base: torch.optim.Optimizer = optimizer
        self._parameters = list(module.parameters())
        self._sum = torch.zeros(sum(p.numel() for p in self._parameters), dtype=torch.float64, device=place.device)
        self._sums = [part.view_as(p) for part, p in zip(self._split(self._sum), self._parameters)]
        self._statistics = LaneAveragedStatistics(module, lanes)
        self._accumulated = 0

    def accumulate(self, *inputs: Any) -> Any:
        """Forward and backward of one lane's micro-batch; returns what the module returned."""
        if self._accumulated == 0:
            self._statistics.begin_step()
            self._sum.zero_()
        self._statistics.begin_lane()
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=bf16):
            output = self.module(*inputs)
        self._statistics.end_lane()
        gradients = torch.autograd.grad(output.loss, self._parameters, materialize_grads=True)
        for total, gradient in zip(self._sums, gradients):
            total += gradient
        self._accumulated += 1
        return output

    def step(self, learning_rates: Iterable[float]) -> float:
        """The optimizer's step after all lanes, with one learning rate per parameter group; the gradient's norm."""
        assert self._accumulated == self._lanes // self.place.world_size, "a step takes every lane of a process once"
        self._accumulated = 0
        self._statistics.end_step()
        if self.place.world_size > 1:
            dist.all_reduce(self._sum)
        self._sum /= self._lanes
        norm = float(torch.linalg.vector_norm(self._sum))
        if self._clipping and norm > self._clipping:
            self._sum *= self._clipping / norm
        for group, rate in zip(self._engine.optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = rate
        # The gradient of sum(p g) is g: so DeepSpeed's own hooks get it, in every stage.
        gradient = [part.view_as(p) for part, p in zip(self._split(self._sum.float()), self._parameters)]
        self._engine.backward(torch.stack([(p * g).sum() for p, g in zip(self._parameters, gradient)]).sum())
        self._engine.step()
        return norm

    def _split(self, flat: Tensor) -> Sequence[Tensor]:
        return flat.split([p.numel() for p in self._parameters])

    def gather_lanes(self, values: Tensor) -> Tensor:
        """[L, ...] from each process's [L / W, ...], in lane order, on every process (collective)."""
        world_size = self.place.world_size
        if world_size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(world_size)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    def any(self, flag: bool) -> bool:
        """Whether any process says so (collective)."""
        if self.place.world_size == 1:
            return flag
        value = torch.tensor(int(flag), device=self.place.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.place.world_size > 1:
            dist.barrier()

    # --- state by parameter name, free of ranks and stages -----------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Every parameter and persistent buffer by name, fp32, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    def moments(self) -> dict[str, Tensor]:
        """AdamW's moments as ``exp_avg.<parameter>`` and ``exp_avg_sq.<parameter>`` (collective); CPU, fp32.

        Empty before the first step.
        """
        if not self._has_state():
            return {}
        self._link_fragments()
        return {
            f"{moment}.{name}": self._get_moment(parameter, moment).detach().cpu().clone()
            for moment in MOMENTS
            for name, parameter in self.module.named_parameters()
        }

    def load(self, weights: dict[str, Tensor], moments: dict[str, Tensor], optimizer_step: int) -> None:
        """Restore weights, and moments as of ``optimizer_step``, saved at any world size and stage.

        Raises:
            CheckpointError: names or shapes differ from the model's.
        """
        load_weights(self.module, weights)
        names = {f"{moment}.{name}" for moment in MOMENTS for name, _ in self.module.named_parameters()}
        if moments and set(moments) != names:
            raise CheckpointError(f"optimizer moments do not fit the model: {sorted(names ^ set(moments))[:5]} differ.")
        if self.config.zero_stage > 0:
            from deepspeed.utils import safe_set_full_fp32_param

            for name, parameter in self.module.named_parameters():
                safe_set_full_fp32_param(parameter, weights[name].to(parameter.device))
        if not moments:
            return
        for parameter in (p for group in self._base.param_groups for p in group["params"]):
            self._base.state[parameter] = {
                "step": torch.tensor(float(optimizer_step)),
                **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
            }
        self._link_fragments()
        for moment in MOMENTS:
            for name, parameter in self.module.named_parameters():
                self._set_moment(parameter, moment, moments[f"{moment}.{name}"])

    def _has_state(self) -> bool:
        return any(self._base.state.get(p) for group in self._base.param_groups for p in group["params"])

    def _link_fragments(self) -> None:
        # With a client optimizer ZeRO links its fragments to the state lazily, and the link may be stale.
        if self.config.zero_stage > 0:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _get_moment(self, parameter: nn.Parameter, moment: str) -> Tensor:
        if self.config.zero_stage == 0:
            return self._base.state[parameter][moment]
        from deepspeed.utils import safe_get_full_optimizer_state

        value = safe_get_full_optimizer_state(parameter, moment)
        assert value is not None
        return value

    def _set_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        if self.config.zero_stage == 0:
            self._base.state[parameter][moment].copy_(value)
            return
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, value.to(parameter.device), moment)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
