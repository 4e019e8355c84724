"""The only writer of files: images, commit log, checkpoints, snapshots."""

from perdure.storage.image import TemporaryImage, open_sealed
from perdure.storage.temporary import MAPPING_BUDGET, TemporaryStore

__all__ = ["MAPPING_BUDGET", "TemporaryImage", "TemporaryStore", "open_sealed"]
