"""The pretraining loop: fetch, forward and backward per lane, step, record; save so that any crash costs little."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config import to_yaml
from pipeline.order import LaneOrder, lanes_of_rank
from pipeline.shards.reader import ShardDataset
from preprocessing.errors import ConfigError, TrainingError
from training.checkpoint import Checkpoint, RunState, latest_checkpoint, load_checkpoint, save_checkpoint
from training.config import PretrainConfig
from training.data.batch import MoleculeBatch
from training.data.stream import LaneStream
from training.engine import Engine, Place
from training.lifecycle import StepWatch, graceful_stop
from training.metrics import MetricsWriter, is_finite, log_line, peak_memory_gib
from training.models.layout import padding_share
from training.models.transformer import compile_blocks
from training.module import build_module, keyed_seed, num_parameters
from training.optim import build_optimizer, learning_rate
from training.run import RunDirectory, command
from training.weights import load_initial_weights


@dataclass(frozen=True)
class _StepTiming:
    """Seconds of one step, the part of it that was spent waiting for data, and the share of padding in its batches."""

    seconds: float
    wait: float
    padding: float


class Trainer:
    """One process of a pretraining run.

    Args:
        config: the run.
        place: this process among its peers.
        dataset: the committed dataset at ``config.data.path``.
        run: its directory, already checked and begun.
    """

    def __init__(self, config: PretrainConfig, place: Place, dataset: ShardDataset, run: RunDirectory):
        self.config, self.place, self.run = config, place, run
        self.dataset = dataset
        data = config.data
        self.order = LaneOrder(dataset.block_rows, config.seed, data.lanes, data.micro_batch, data.window_blocks)
        self.lanes = lanes_of_rank(place.rank, place.world_size, data.lanes)
        self.stream = LaneStream(dataset, self.order, self.lanes)
        module = build_module(config.model, config.objective, config.seed)
        if config.compile:
            compile_blocks(module)
        _require_fields(module.objective.required_fields, dataset)
        optimizer, self._scales = build_optimizer(module, config.optim, module.objective.learning_rate_scale)
        self.engine = Engine(
            module,
            optimizer,
            config.deepspeed,
            place,
            lanes=data.lanes,
            micro_batch=data.micro_batch,
            gradient_clipping=config.optim.gradient_clipping,
        )
        self._pending: list[tuple[int, Tensor, float, float, _StepTiming]] = []
        self._names: list[str] = []

    # --- life cycle --------------------------------------------------------------------------------------------------

    def fit(self) -> bool:
        """Train to the end of the run, or to ``stop_at``; False when a signal stopped it, with a checkpoint saved."""
        done = self._restore()
        last = min(self.config.steps, self.config.stop_at or self.config.steps)
        self._metrics = MetricsWriter(self.run.path, done) if self.place.rank == 0 else None
        self._announce(done, last)
        watch = StepWatch(self.run.path, self.config.deepspeed.timeout_s, self.place)
        with graceful_stop() as stop, watch:
            batches = self.stream.steps(done, last, self.config.data.prefetch)
            for step in range(done, last):
                watch.begin(step + 1)
                self._train_step(step, batches)
                stopping = self.engine.any(stop.requested)
                saving = stopping or (step + 1) % self.config.save_every == 0 or step + 1 == last
                # Before a save as well: a run continued from it must not lack records, nor start from a lost loss.
                if saving or (step + 1) % self.config.log_every == 0:
                    self._flush()
                if saving:
                    self._save(step + 1)
                if stopping:
                    self._say(f"stopped by a signal at step {step + 1}; continue with: {command(self.place)}")
                    break
            else:
                stopping = False
        if self._metrics:
            self._metrics.close()
        return not stopping

    def _restore(self) -> int:
        """Continue from the newest whole checkpoint, or start from init_from, or from scratch; the steps done."""
        path = latest_checkpoint(self.run.checkpoints, self._say)
        if path is not None:
            checkpoint = load_checkpoint(path)
            state = checkpoint.state
            self.engine.load(checkpoint.weights, checkpoint.moments, state.step)
            self._say(
                f"restored step {state.step} from {path}: weights, optimizer, order "
                f"(written by {state.world_size} processes at ZeRO {state.zero_stage}, now {self.place.world_size} at "
                f"{self.config.deepspeed.zero_stage})"
            )
            return state.step
        if self.config.init_from is not None:
            loaded = load_initial_weights(self.engine.module, self.config.init_from)
            self.engine.load(self.engine.weights(), {}, 0)
            self._say(f"new run from {self.config.init_from}: {loaded}")
        return 0

    def _announce(self, done: int, last: int) -> None:
        data = self.config.data
        parts = {name: num_parameters(child) for name, child in self.engine.module.named_children()}
        self._say(
            f"run {self.run.path}: steps {done} to {last} of {self.config.steps}; "
            f"{self.order.num_samples} molecules, {self.order.steps_per_epoch} steps per epoch; global batch "
            f"{data.lanes} lanes x {data.micro_batch} = {data.lanes * data.micro_batch} on {self.place.world_size} "
            f"process(es), {self.place.device.type}, {self.config.deepspeed.precision}, "
            f"ZeRO {self.config.deepspeed.zero_stage}; parameters "
            + ", ".join(f"{name} {count:,}" for name, count in parts.items())
        )

    # --- one step ----------------------------------------------------------------------------------------------------

    def _train_step(self, step: int, batches: Iterator[list[MoleculeBatch]]) -> None:
        started = time.perf_counter()
        lanes = next(batches)
        wait = time.perf_counter() - started
        rows = []
        for lane, batch in zip(self.lanes, lanes, strict=True):
            output = self.engine.accumulate(batch.to(self.place.device), self._generator(step, lane))
            metrics = {"loss": output.loss.detach(), **output.metrics}
            self._names = list(metrics)
            rows.append(torch.stack([value.to(torch.float32) for value in metrics.values()]))
        rate = learning_rate(self.config.optim, step, self.config.steps)
        norm = self.engine.step([rate * scale for scale in self._scales])
        padding = float(np.mean([padding_share(batch.ptr.diff()) for batch in lanes]))
        timing = _StepTiming(time.perf_counter() - started, wait, padding)
        self._pending.append((step + 1, torch.stack(rows), rate, norm, timing))

    def _generator(self, step: int, lane: int) -> torch.Generator:
        """Where all noise, times, permutations and dropout masks of a lane's micro-batch come from."""
        return torch.Generator(self.place.device).manual_seed(keyed_seed(self.config.seed, step, lane))

    # --- records -----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Gather the lanes' metrics of the steps since the last flush, record them, and stop on a lost loss."""
        if not self._pending:
            return
        values = torch.stack([rows for _, rows, *_ in self._pending], dim=1)
        lanes = self.engine.gather_lanes(values).double().cpu()
        molecules = self.config.data.lanes * self.config.data.micro_batch
        records: list[dict[str, float]] = []
        for k, (step, _, rate, norm, timing) in enumerate(self._pending):
            # Summed in lane order in fp64, so that the recorded loss does not depend on the world size.
            means = lanes[:, k].mean(dim=0).tolist()
            record = {"step": step, **{f"train/{name}": value for name, value in zip(self._names, means)}}
            record |= {
                "optim/lr": rate,
                "optim/grad_norm": norm,
                "throughput/molecules_per_s": molecules / timing.seconds,
                "throughput/data_wait": timing.wait / timing.seconds,
                "data/padding": timing.padding,
                "data/epoch": float(self.order.locate(step - 1)[0]),
            }
            records.append(record)
            if self._metrics:
                self._metrics.write(record)
            if not is_finite(record):
                self._report_non_finite(step, lanes[:, k, 0])
        if self._metrics:
            self._metrics.flush()
        seconds = float(np.mean([timing.seconds for *_, timing in self._pending]))
        mean = {name: float(np.mean([record[name] for record in records])) for name in records[0]}
        memory = peak_memory_gib(self.place.device)
        self._say(log_line({**mean, "step": records[-1]["step"]}, self.config.steps, seconds, memory))
        self._pending.clear()

    def _report_non_finite(self, step: int, losses: Tensor) -> None:
        lane = int((~losses.isfinite()).nonzero()[0, 0])
        index = LaneStream(self.dataset, self.order, [lane]).step(step - 1)[0].index
        keys = self.dataset.read_rows(index.numpy(), ("key",)).values["key"]
        if self._metrics:
            self._metrics.flush()
            folder = self.run.path / "rejected"
            folder.mkdir(exist_ok=True)
            (folder / f"step_{step:08d}.txt").write_text("\n".join(map(str, keys)) + "\n")
        raise TrainingError(
            f"the loss of lane {lane} at step {step} is {float(losses[lane])}; expected a finite number. The keys of "
            f"its {len(keys)} molecules are in {self.run.path}/rejected; the last checkpoint is untouched. "
            "Lower optim.lr, set optim.gradient_clipping, or use deepspeed.precision=fp32."
        )

    def _save(self, step: int) -> None:
        weights, moments = self.engine.weights(), self.engine.moments()
        if self.place.rank == 0:
            state = RunState(
                step=step,
                seed=self.config.seed,
                lanes=self.config.data.lanes,
                micro_batch=self.config.data.micro_batch,
                world_size=self.place.world_size,
                zero_stage=self.config.deepspeed.zero_stage,
                dataset_fingerprint=self.dataset.manifest.fingerprint,
            )
            checkpoint = Checkpoint(weights, moments, state)
            path = save_checkpoint(self.run.checkpoints, checkpoint, to_yaml(self.config), self.config.keep_last)
            self._say(f"saved {path}")
        self.engine.barrier()

    def _say(self, text: str) -> None:
        if self.place.rank == 0:
            self.run.log(text)


def _require_fields(fields: frozenset[str], dataset: ShardDataset) -> None:
    """Make sure, before anything starts, that the dataset has what the objective reads.

    Raises:
        ConfigError: positions are needed and no molecule has a conformer, or targets are and there are none.
    """
    manifest = dataset.manifest
    available = {
        "positions": manifest.num_with_conformer > 0,
        "conformer_energy": manifest.num_with_conformer > 0,
        "targets": bool(manifest.target_names),
    }
    if missing := sorted(name for name in fields if not available.get(name, True)):
        raise ConfigError(
            f"the objective needs {', '.join(missing)}, which the {dataset.num_rows} molecules of {dataset.path} do "
            "not have. Preprocess with featurize.conformers.num_conformers=1 (positions) or target_columns=[...]."
        )
