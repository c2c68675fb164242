"""Scalar state of an engine: the loss scale of fp16, and counters of steps."""

from dataclasses import dataclass

FIRST_LOSS_SCALE, LARGEST_LOSS_SCALE, GROWTH_INTERVAL = 2.0**16, 2.0**24, 2000
"""Loss scale of fp16: halved after a non-finite gradient, doubled after GROWTH_INTERVAL steps with finite ones."""


@dataclass(frozen=True)
class EngineProgress:
    """Scalar state of an engine: loss scale and step counters."""

    loss_scale: float = 1.0
    """Factor on the loss, so that small gradients do not underflow in fp16; 1 in fp32 and bf16."""
    optimizer_steps: int = 0
    """Number of steps that the optimizer has taken."""
    finite_steps: int = 0
    """Number of steps with a finite gradient since the last non-finite one, or since the loss scale grew."""
    skipped: int = 0
    """Number of consecutive skipped steps, up to now, that a smaller loss scale would not have prevented."""

    def after(self, finite: bool, scaled: bool) -> "EngineProgress":
        """The progress after one more step.

        Args:
            finite: whether the gradient of the step was finite.
            scaled: whether losses are scaled, as in fp16.
        """
        scale, count = self.loss_scale, self.finite_steps + 1
        if not finite:
            hopeless = not scaled or scale <= 1.0
            return EngineProgress(
                max(scale / 2, 1.0) if scaled else scale, self.optimizer_steps, 0, self.skipped + hopeless
            )
        if scaled and count >= GROWTH_INTERVAL:
            scale, count = min(scale * 2, LARGEST_LOSS_SCALE), 0
        return EngineProgress(scale, self.optimizer_steps + 1, count, 0)
