"""The pretraining loop: load batches, accumulate gradients over lanes, step, record metrics, validate and save."""

import math
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, nullcontext

import numpy as np
import torch
from torch import Tensor

from molstream.config import to_yaml
from molstream.errors import CheckpointError, TrainingError
from molstream.io.files import write_atomically
from molstream.pipeline.order.lanes import lanes_of_rank
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.reader import ShardDataset
from molstream.randomness import keyed_seed
from molstream.training.checkpoint.format import KINDS, RunState, name_of, read_state, read_tensors
from molstream.training.checkpoint.load import initial_weights
from molstream.training.checkpoint.writer import CheckpointWriter, Retention
from molstream.training.config import PretrainConfig
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.datasets import require_fields
from molstream.training.data.images import image_source
from molstream.training.data.labels import Labels
from molstream.training.data.largest_batch import largest_batch
from molstream.training.data.stream import LaneStream
from molstream.training.data.validation import ValidationStream
from molstream.training.distributed.context import DistributedContext
from molstream.training.distributed.signals import graceful_stop
from molstream.training.distributed.watchdog import Watchdog
from molstream.training.engine.engine import Engine
from molstream.training.engine.progress import EngineProgress
from molstream.training.look_ahead import LookAhead
from molstream.training.memory import require_room_to_train
from molstream.training.metrics.recorder import recording
from molstream.training.metrics.records import is_finite, peak_memory_gib
from molstream.training.metrics.steps import StepRecords
from molstream.training.models.transformer import compile_blocks
from molstream.training.module import build_module, num_parameters, run_children_once
from molstream.training.optim.optimizer import build_optimizer
from molstream.training.optim.schedule import learning_rate
from molstream.training.run.directory import RunDirectory, command


class Trainer:
    """Trains a model on one process of a run.

    Args:
        config: configuration of the run.
        context: this process among its peers.
        dataset: training data, as ``config.data`` names it.
        validation: validation dataset, or None.
        run: the run directory, already checked.
    """

    def __init__(
        self,
        config: PretrainConfig,
        context: DistributedContext,
        dataset: Mixture,
        validation: ShardDataset | None,
        run: RunDirectory,
    ):
        self.config, self.context, self.run = config, context, run
        self.dataset = dataset
        data = config.data
        self.order = dataset.order(config.seed, data.lanes, data.micro_batch, data.window_blocks, data.length_buckets)
        self.lanes = lanes_of_rank(context.rank, context.world_size, data.lanes)
        self._validated: tuple[int, dict[str, float]] = (0, {})
        labels = Labels.of(dataset.record())
        require_room_to_train(config, context, labels)
        module = build_module(config.model, config.objective, config.seed, labels)
        self._sizes = {name: num_parameters(child) for name, child in module.named_children()}
        if config.compile:
            compile_blocks(module)
        if config.deepspeed.zero_stage == 3:
            run_children_once(module)
        self._required, self._notes = module.objective.required_fields, module.objective.notes
        require_fields(self._required, dataset)
        self._images = image_source(config.model.image_size, data.image_workers)
        self.stream = LaneStream(dataset, self.order, self.lanes, self._required, self._images)
        self.validation = validation and ValidationStream(
            validation, data.lanes, data.micro_batch, self.lanes, self._required, self._images
        )
        optimizer, self._scales = build_optimizer(module, config.optim, module.objective.learning_rate_scale)
        self.engine = Engine(
            module,
            optimizer,
            config.deepspeed,
            context,
            lanes=data.lanes,
            micro_batch=data.micro_batch,
            gradient_clipping=config.optim.gradient_clipping,
            ema_decay=config.optim.ema_decay,
        )
        self._look_ahead = LookAhead(self.engine, module.objective, data.lanes)
        self.store = run.checkpoints(config)
        self._records = StepRecords(context, data.lanes, data.micro_batch)

    # --- life cycle --------------------------------------------------------------------------------------------------

    def fit(self) -> bool:
        """Train to the end of the run, or to ``stop_at``; returns False if a signal stopped it, after saving."""
        done = self._restore()
        retention = Retention(self.config.keep_last, self.config.keep_every, self.config.keep_best)
        self.writer = CheckpointWriter(self.store, self.context, retention, self._say, done)
        last = min(self.config.steps, self.config.stop_at or self.config.steps)
        self._announce(done, last)
        if done < last:
            self._dry_run_batch()
        self._watch = Watchdog(self.run.path, self.config.deepspeed.timeout_s, self.context)
        records = recording(self.run, self.config, self.context, done)
        stopped_at: int | None = None
        with (
            graceful_stop() as stop,
            self._watch,
            records as self._metrics,
            self._images or nullcontext(),
            closing(self.stream.steps(done, last, self.config.data.prefetch)) as batches,
        ):
            for step in range(done, last):
                self._watch.begin(step + 1)
                self._train_step(step, batches)
                if self._metrics:
                    self._metrics.advance(step + 1)
                stopping, writing = self.context.any_rank(stop.requested, self.writer.busy)
                self.writer.settle(writing)
                saving = stopping or (step + 1) % self.config.save_every == 0 or step + 1 == last
                if self.validation and (step + 1 == last or (step + 1) % self.config.validate_every == 0):
                    self._validate(step + 1)
                # Also before a save: a run that resumes from it must not lack records, nor start from a bad loss.
                if saving or (step + 1) % self.config.log_every == 0:
                    self._flush()
                if saving:
                    self._save(step + 1)
                if stopping:
                    stopped_at = step + 1
                    break
            self.writer.finish()
            if stopped_at is not None:
                self._say(f"stopped by a signal at step {stopped_at}; resume with: {command(self.context)}")
        return stopped_at is None

    def _restore(self) -> int:
        """Resume from the newest intact checkpoint, or start from init_from or from scratch; returns the steps done."""
        # Only one process verifies checkpoints, since this reads them completely.
        found = self.store.latest(self._say) if self.context.rank == 0 else None
        step = self.context.broadcast(-1 if found is None else found)
        if step >= 0:
            path = self.store.fetch(step)
            state = read_state(path)
            progress = EngineProgress(state.loss_scale, state.optimizer_steps, state.finite_steps)
            weights, moments, average = (read_tensors(path, kind) for kind in KINDS)
            self.engine.load(weights, moments, average, progress)
            self._say(
                f"restored step {state.step} from {self.store.where}/{name_of(step)}: weights, optimizer, order "
                f"(written by {state.world_size} processes at ZeRO {state.zero_stage}, now "
                f"{self.context.world_size} at {self.config.deepspeed.zero_stage})"
            )
            return state.step
        if self.config.init_from is not None:
            weights, loaded = initial_weights(self.engine.weights(), self.config.init_from)
            self._require_everywhere(loaded)
            self.engine.load(weights, {}, {}, self.engine.progress)
            self._say(f"new run from {self.config.init_from}: {loaded}")
        return 0

    def _require_everywhere(self, loaded: str) -> None:
        """Check that all processes have loaded the same initial weights (collective).

        Raises:
            CheckpointError: the export at a hub or URL changed while the processes downloaded it.
        """
        own = zlib.crc32(loaded.encode())
        if self.context.broadcast(own) != own:
            raise CheckpointError(
                f"init_from={self.config.init_from} changed while the processes loaded it: this one has {loaded}, the "
                "first one something else. Run the same command again, or name a commit or version."
            )

    def _announce(self, done: int, last: int) -> None:
        data = self.config.data
        self._say(
            f"run {self.run.path}: steps {done} to {last} of {self.config.steps}; "
            f"{self.order.num_samples} molecules, {self.order.steps_per_epoch} steps per epoch; global batch "
            f"{data.lanes} lanes x {data.micro_batch} = {data.lanes * data.micro_batch} on {self.context.world_size} "
            f"process(es), {self.context.device.type}, {self.config.deepspeed.precision}, "
            f"ZeRO {self.config.deepspeed.zero_stage}; parameters "
            + ", ".join(f"{name} {count:,}" for name, count in self._sizes.items())
        )
        for note in self._notes:
            self._say(f"warning: {note}")

    def _dry_run_batch(self) -> None:
        """Run the largest possible batch, so that a run that needs too much memory fails now and not in a week."""
        histograms = self.dataset.record()["histograms"]
        descriptors = len(self.dataset.descriptor_names) if "descriptors" in self._required else 0
        targets = len(self.dataset.target_names) if "targets" in self._required else 0
        sizes = targets, descriptors, self.config.model.image_size
        batch = largest_batch(histograms, self.config.data.micro_batch, *sizes).to(self.context.device)
        share = self._look_ahead.shares(
            [(batch, self._generator(0, 0)) for _ in self.lanes], self._generator(0, ALL), 0.0
        )
        kept = self.engine.dry_run(batch, self._generator(0, 0), *share[0])
        parts = {**self.engine.memory(), "activations": kept}
        self._say(
            "memory per process: "
            + ", ".join(f"{name} {size / 2**30:.3g} GiB" for name, size in parts.items())
            + f" of the largest batch ({batch.num_graphs} molecules, {batch.num_nodes} atoms)"
        )

    # --- one step ----------------------------------------------------------------------------------------------------

    def _train_step(self, step: int, batches: Iterator[list[MoleculeBatch]]) -> None:
        started = time.perf_counter()
        lanes = next(batches)
        wait = time.perf_counter() - started
        metrics: list[dict[str, Tensor]] = []
        here = [batch.to(self.context.device) for batch in lanes]
        draws = [self._generator(step, lane) for lane in self.lanes]
        shares = self._look_ahead.shares(list(zip(here, draws)), self._generator(step, ALL), step / self.config.steps)
        for lane, batch, share in zip(self.lanes, here, shares, strict=True):
            output = self.engine.accumulate(batch, self._generator(step, lane), *share)
            metrics.append({"loss": output.loss.detach(), **output.metrics})
        rate = learning_rate(self.config.optim, step, self.config.steps)
        norm = self.engine.step([rate * scale for scale in self._scales])
        self._look_ahead.end_step(math.isfinite(norm))
        if self.engine.progress.skipped:
            self._leave_out(step, torch.stack([values["loss"] for values in metrics]))
        seconds = time.perf_counter() - started
        epoch = float(self.order.locate(step)[0])
        common = {"optim/lr": rate, "optim/grad_norm": norm, "data/epoch": epoch}
        self._records.add(step + 1, lanes, metrics, seconds, wait, common)

    def _generator(self, step: int, lane: int) -> torch.Generator:
        """Create the generator of all noise, times, permutations and dropout masks of a lane's micro-batch."""
        return torch.Generator(self.context.device).manual_seed(keyed_seed(self.config.seed, step, lane))

    # --- records -----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Gather the lanes' metrics of the steps since the last flush and record them (collective)."""
        records = self._records.gather()
        if not records or not self._metrics:
            return
        for record in records:
            validated = self._validated[1] if self._validated[0] == record["step"] else {}
            self._metrics.write({**record, **validated})
        self._metrics.flush()
        finite = [record for record in records if is_finite(record)] or records[-1:]
        mean = {name: float(np.mean([record[name] for record in finite])) for name in records[0]}
        seconds = self._records.seconds_per_step(records)
        self._metrics.tell({**mean, "step": records[-1]["step"]}, seconds, peak_memory_gib(self.context.device))

    def _leave_out(self, step: int, losses: Tensor) -> None:
        """Record the molecules of a step that the optimizer skipped; raise after too many consecutive ones.

        Args:
            step: number of the step, from 0.
            losses: [L / W] losses of this process's lanes.
        """
        every = self.context.gather_lanes(losses)
        # If all losses are finite, the lane of the non-finite gradient is not known.
        lanes = (~every.isfinite()).nonzero().flatten().tolist() or list(range(self.config.data.lanes))
        file = self.run.path / "rejected" / f"step_{step + 1:08d}.txt"
        if self.context.rank == 0:
            batches = LaneStream(self.dataset, self.order, lanes).step(step)
            index = np.concatenate([batch.index.numpy() for batch in batches])
            keys = self.dataset.read_rows(index, ("key",)).values["key"]
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, ("\n".join(map(str, keys)) + "\n").encode())
        found = f"step {step + 1} has no finite gradient (lanes {', '.join(map(str, lanes))})"
        self._say(f"{found}: skipped, the keys of its molecules are in {file}")
        if (skipped := self.engine.progress.skipped) > self.config.optim.max_skipped:
            raise TrainingError(
                f"{found}, like the {skipped - 1} previous steps; expected at most "
                f"optim.max_skipped={self.config.optim.max_skipped}. The keys of the molecules are in {file.parent}. "
                "Lower optim.lr, set optim.gradient_clipping, or use deepspeed.precision=fp32."
            )

    def _validate(self, step: int) -> None:
        """Compute the metrics of the validation dataset, with the same noise every time (collective)."""
        assert self.validation is not None
        rounds: list[Tensor] = []
        names: list[str] = []
        for batches in self.validation.rounds(self.config.data.prefetch):
            self._watch.begin(step)
            rows = []
            for batch in batches:
                generator = self._generator(VALIDATION, batch.number)
                output = self.engine.evaluate(batch.molecules.to(self.context.device), generator)
                metrics = {"loss": output.loss, **output.metrics}
                names = list(metrics)
                rows.append(torch.stack([value.to(torch.float32) for value in metrics.values()]))
            rounds.append(torch.stack(rows))
        values = self.context.gather_lanes(torch.stack(rounds, dim=1)).transpose(0, 1)
        mean = self.validation.mean(values).tolist()
        self._validated = step, {f"validation/{name}": value for name, value in zip(names, mean, strict=True)}
        self._say(f"validation at step {step}: " + "  ".join(f"{n} {v:.4f}" for n, v in zip(names, mean)))

    def _save(self, step: int) -> None:
        """Start to write a checkpoint; :meth:`fit` commits it at the end of a later step."""
        progress = self.engine.progress
        state = RunState(
            step=step,
            optimizer_steps=progress.optimizer_steps,
            seed=self.config.seed,
            lanes=self.config.data.lanes,
            micro_batch=self.config.data.micro_batch,
            world_size=self.context.world_size,
            zero_stage=self.config.deepspeed.zero_stage,
            dataset_fingerprint=self.dataset.fingerprint,
            loss_scale=progress.loss_scale,
            finite_steps=progress.finite_steps,
            validation_loss=self._validation_loss(step),
        )
        self.writer.begin(self.engine.snapshot(), state, to_yaml(self.config))

    def _validation_loss(self, step: int) -> float | None:
        loss = self._validated[1]["validation/loss"] if self._validated[0] == step else None
        return loss if loss is not None and math.isfinite(loss) else None

    def _say(self, text: str) -> None:
        if self.context.rank == 0:
            self.run.log(text)


ALL = 2**62
"""Used instead of the lane in the random keys of the global batch; larger than any lane."""

VALIDATION = 2**62
"""Used instead of the step in the random keys of a validation; larger than the steps of any run."""
