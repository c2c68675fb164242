"""Draws the images of batches, in this process or in child processes beside it."""

from collections.abc import Sequence

import numpy as np

from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.sandbox.pool import SandboxPool
from molstream.pipeline.shards.columns import Columns
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.drawing import View, image_of, random_view, stacked

DRAWN_FIELDS = ("smiles", "key")
"""Stored fields that images are made of."""
Images = tuple[np.ndarray, np.ndarray]
"""The images of g molecules, uint8 [g, 3, s, s], zero where a molecule cannot be drawn; and bool [g], where it can."""


class ImageSource:
    """Draws molecules for an image encoder; a context manager, which has child processes while its body runs.

    Before and after, and without children, the process draws itself; images are the same bytes. Threads may share it.

    Args:
        size: height and width of the images in pixels.
        workers: number of child processes.
    """

    def __init__(self, size: int, workers: int = 0):
        self.size, self._workers = size, workers
        self._pool: SandboxPool | None = None

    def __enter__(self) -> "ImageSource":
        if self._workers:
            self._pool = SandboxPool(SandboxConfig(), FeaturizeConfig(), self._workers, keys=False)
        return self

    def __exit__(self, *exception: object) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.__exit__(*exception)

    def draw(self, smiles: Sequence[str], views: Sequence[View]) -> Images:
        """Draw g molecules, each in its view.

        Raises:
            DataError: no child process starts.
        """
        drawings = list(zip(smiles, views, strict=True))
        if (pool := self._pool) is not None:
            return stacked(list(pool.images(drawings, self.size)), self.size)
        return stacked([image_of(text, self.size, view) for text, view in drawings], self.size)


def image_source(size: int | None, workers: int = 0) -> ImageSource | None:
    """What draws for a model that sees images of a size; None for one that sees none."""
    return None if size is None else ImageSource(size, workers)


def views_of(columns: Columns, seed: int, step: int) -> list[View]:
    """The views of molecules at a step of training; ``columns`` have their keys."""
    return [random_view(key, seed, step) for key in columns.values["key"].tolist()]
