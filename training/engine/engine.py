"""The training engine: DeepSpeed on one process or many, on CPUs (gloo) or GPUs (nccl)."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from molstream.errors import CheckpointError
from molstream.training.checkpoint.load import forms, require_same
from molstream.training.distributed import deepspeed_compat
from molstream.training.distributed.context import DistributedContext
from molstream.training.engine.batch_norm import LaneAveragedStatistics
from molstream.training.engine.config import EngineConfig, deepspeed_settings
from molstream.training.engine.gradients import PartitionedGradients, SummedGradients
from molstream.training.engine.precision import PRECISIONS
from molstream.training.engine.progress import FIRST_LOSS_SCALE, EngineProgress
from molstream.training.engine.zero_state import MOMENTS, STATES
from molstream.training.optim.ema import ExponentialMovingAverage
from molstream.training.optim.muon import Muon, MuonAdamW, is_muon


class Engine:
    """A module under DeepSpeed: accumulates gradients over lanes, steps, and reads or writes its state by name.

    The result of a step does not depend, to the last bit, on how the lanes are distributed over processes, for world
    sizes that are powers of two: see :mod:`~molstream.training.engine.gradients`.

    Args:
        module: its parameters are fp32 and belong to its children, none to itself; its forward returns an object with a
            scalar ``loss``.
        optimizer: AdamW over the module's parameters, or :class:`~molstream.training.optim.muon.MuonAdamW`.
        config: ZeRO stage, precision and memory.
        context: from :func:`~molstream.training.distributed.context.start_processes`.
        lanes, micro_batch: the global batch is their product; a process accumulates ``lanes / world_size`` lanes.
        gradient_clipping: maximum global L2 norm of the gradient; 0 disables clipping.
        ema_decay: decay of the exponential moving average of the weights; 0 keeps none.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.AdamW,
        config: EngineConfig,
        context: DistributedContext,
        *,
        lanes: int,
        micro_batch: int,
        gradient_clipping: float,
        ema_decay: float = 0.0,
    ):
        self.context, self.config, self.module = context, config, module
        self._forms = forms(module.state_dict())
        self._lanes, self._clipping = lanes, gradient_clipping
        deepspeed_compat.allow_any_output()
        deepspeed_compat.accept_optimizer(MuonAdamW)
        settings = deepspeed_settings(config, lanes * micro_batch, lanes // context.world_size * micro_batch)
        groups = [(group["momentum"], group["params"]) for group in filter(is_muon, optimizer.param_groups)]
        self._engine = deepspeed_compat.initialize(module, optimizer, settings)
        self._parameters = dict(module.named_parameters())
        if config.zero_stage == 3:
            self._gradients = PartitionedGradients(self._engine, config.bucket_size)
        else:
            self._gradients = SummedGradients(self._engine, list(self._parameters.values()))
        self._state = STATES[config.zero_stage](self._engine, optimizer)
        precision = PRECISIONS[config.precision]
        self._muon = (
            Muon(groups, self._parameters, {name: form.shape for name, form in self._forms.items()}, precision, context)
            if groups
            else None
        )
        self._average = ExponentialMovingAverage(self._state, self._parameters, ema_decay) if ema_decay else None
        self._statistics = LaneAveragedStatistics(module, lanes)
        self._accumulated, self._begun = 0, False
        self.progress = EngineProgress(loss_scale=FIRST_LOSS_SCALE if config.precision == "fp16" else 1.0)

    def accumulate(self, *inputs: Any) -> Any:
        """Run forward and backward on one lane's micro-batch, add its gradient, and return the module's output."""
        self._begin_step()
        self._statistics.begin_lane()
        with self._autocast():
            output = self.module(*inputs)
        self._statistics.end_lane()
        self._gradients.add(output.loss * self.progress.loss_scale)
        self._accumulated += 1
        return output

    def look_ahead(self, *inputs: Any) -> Any:
        """Run forward on one lane's micro-batch as :meth:`accumulate` will, without gradients (collective at ZeRO 3).

        It comes before the first lane is accumulated, and leaves BatchNorm's statistics to that.
        """
        self._begin_step()
        self._statistics.begin_lane()
        with torch.no_grad(), self._autocast():
            return self.module(*inputs)

    def accumulate_once(self, leaves: Sequence[Tensor], *inputs: Any) -> tuple[Any, list[Tensor]]:
        """Run forward and backward on inputs that are the same on all processes, in fp32, and add the gradient once.

        It counts as much as the mean over the lanes, whose losses are accumulated beside it (collective).

        Args:
            leaves: tensors that the inputs contain, which require a gradient.
            inputs: of the module.

        Returns:
            The module's output, and the gradient of its ``loss`` with respect to each of ``leaves``.
        """
        self._begin_step()
        output = self.module(*inputs)
        # All processes add the same, and the sum is divided by the number of lanes.
        factor = self._lanes / self.context.world_size * self.progress.loss_scale
        found = self._gradients.add(output.loss * factor, leaves)
        return output, [gradient / factor for gradient in found]

    def _begin_step(self) -> None:
        """Clear what is summed over lanes, at the first call of a step."""
        if not self._begun:
            self._statistics.begin_step()
            self._gradients.clear()
            self._begun = True

    def evaluate(self, *inputs: Any) -> Any:
        """Run forward on a micro-batch in evaluation mode, without gradients (collective at ZeRO 3)."""
        self.module.eval()
        try:
            with torch.no_grad(), self._autocast():
                return self.module(*inputs)
        finally:
            self.module.train()

    def dry_run(self, *inputs: Any) -> int:
        """Run forward and backward on a micro-batch and leave the state unchanged (collective).

        Returns:
            Bytes of the activations that the forward saves for the backward.
        """
        kept: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            self.accumulate(*inputs)
        self._accumulated, self._begun = 0, False
        self._statistics.discard_step()
        for parameter in self._parameters.values():
            kept.pop(parameter.untyped_storage().data_ptr(), None)
        return sum(kept.values())

    def memory(self) -> dict[str, int]:
        """Bytes of this process's weights, gradients and optimizer state, by these names."""
        # At ZeRO 1 to 3 several parameters share one storage.
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in self._parameters.values()}
        weights = sum(storages.values())
        masters, moments = self._state.bytes()
        copies = 0 if self.config.zero_stage == 0 else masters
        momenta = self._muon.bytes() if self._muon else 0
        return {"weights": weights, "gradients": self._gradients.bytes(), "optimizer": copies + moments + momenta}

    def step(self, learning_rates: Iterable[float]) -> float:
        """Step the optimizer after all lanes have been accumulated (collective).

        Args:
            learning_rates: one per parameter group.

        Returns:
            L2 norm of the mean gradient, before clipping. If it is not finite, the step is skipped and weights, moments
            and statistics are unchanged.
        """
        assert self._accumulated == self._lanes // self.context.world_size, "every lane is accumulated once per step"
        self._accumulated, self._begun = 0, False
        norm = self._gradients.mean(self._lanes, self.progress.loss_scale)
        finite = math.isfinite(norm)
        self.progress = self.progress.after(finite, self.config.precision == "fp16")
        if not finite:
            self._statistics.discard_step()
            return norm
        self._statistics.end_step()
        if self._clipping and norm > self._clipping:
            self._gradients.scale(self._clipping / norm)
        for group, rate in zip(self._engine.optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = rate
        if self._muon:
            self._muon.replace(self._gradients)
        self._gradients.step()
        if self._average:
            self._average.update(self.progress.optimizer_steps)
        return norm

    def _autocast(self) -> torch.autocast:
        precision = PRECISIONS[self.config.precision]
        return torch.autocast(self.context.device.type, precision, enabled=precision != torch.float32)

    # --- state by parameter name, independent of world size and stage ------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """All parameters and persistent buffers by name, unpartitioned, fp32, on the CPU (collective)."""
        tensors = self.module.state_dict()
        tensors |= {name: self._state.read(parameter, None) for name, parameter in self._parameters.items()}
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def snapshot(self) -> dict[str, dict[str, Tensor]]:
        """The tensors that this process saves, by kind (``checkpoint.format.KINDS``) and name (collective).

        Each tensor of the state is unpartitioned, fp32, a copy on the CPU, and saved by exactly one process. Moments
        are empty before the first step; ``average`` is empty without an EMA.
        """
        kinds: dict[str, dict[str, Callable[[], Tensor]]] = {"weights": {}, "moments": {}, "average": {}}
        buffers = {name: tensor for name, tensor in self.module.state_dict().items() if name not in self._parameters}
        kinds["weights"] = {name: partial(torch.Tensor.detach, buffer) for name, buffer in buffers.items()}
        if self._state.begun():
            kinds["moments"] = {name: read for name, (read, _) in self._moments().items()}
        for name, parameter in self._parameters.items():
            kinds["weights"][name] = partial(self._state.read, parameter, None)
            if self._average:
                kinds["average"][name] = partial(self._average.read, name)
        share: dict[str, dict[str, Tensor]] = {}
        for kind, tensors in kinds.items():
            share[kind] = {}
            for number, (name, read) in enumerate(tensors.items()):
                # Reading is collective: every process reads every tensor, and one keeps it.
                tensor = read()
                if number % self.context.world_size == self.context.rank:
                    share[kind][name] = tensor.cpu().clone()
        return share

    def load(
        self,
        weights: dict[str, Tensor],
        moments: dict[str, Tensor],
        average: dict[str, Tensor],
        progress: EngineProgress,
    ) -> None:
        """Restore a state that was saved at any world size and stage (collective).

        Args:
            weights: parameters and buffers by name, unpartitioned.
            moments: by the names of :meth:`snapshot`, unpartitioned; empty if the optimizer has not stepped yet.
            average: EMA of the weights by name; empty to start the EMA from the weights.
            progress: value of :attr:`progress` at the time of the snapshot.

        Raises:
            CheckpointError: names, shapes or dtypes differ from the model's, or weights are not finite.
        """
        require_same(self._forms, weights, "the checkpoint")
        if average:
            require_same({name: self._forms[name] for name in self._parameters}, average, "the checkpoint's EMA")
        known = self._moments()
        if moments and (differing := sorted(known.keys() ^ moments.keys())):
            raise CheckpointError(f"optimizer moments do not match the model and optimizer: {differing[:5]} differ.")
        with torch.no_grad():
            for name, buffer in self.module.named_buffers():
                if name in weights:
                    buffer.copy_(weights[name])
            for name, parameter in self._parameters.items():
                self._state.write(parameter, None, weights[name])
                if self._average:
                    self._average.write(name, average.get(name, weights[name]))
            if moments:
                self._state.begin(progress.optimizer_steps)
                for name, (_, write) in known.items():
                    write(moments[name])
        self.progress = progress

    def _moments(self) -> dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]]:
        """Functions that read and write each moment (collective), by the moment's name in a checkpoint."""
        moments: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]] = {}
        for name, parameter in self._parameters.items():
            if self._muon and name in self._muon:
                moments[f"momentum.{name}"] = partial(self._muon.read, name), partial(self._muon.write, name)
                continue
            for moment in MOMENTS:
                key = parameter, moment
                moments[f"{moment}.{name}"] = partial(self._state.read, *key), partial(self._state.write, *key)
        return moments
