"""Before and after the fit of the segmentation demo: make rows from a photograph, and a picture from labels.

python configs/segmentation.py features runs/segmentation/photo.h5
python configs/segmentation.py picture runs/segmentation/labels.h5 runs/segmentation/segmented.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

POSITION_WEIGHT = 0.5
"""Weight of the position of a pixel relative to its colour."""


def photograph() -> np.ndarray:
    """The photograph ``china.jpg`` of scikit-learn: (height, width, 3), values from 0 to 1."""
    return load_sample_image("china.jpg").astype(np.float32) / 255


def write_features(path: Path) -> None:
    """Write ``/X``, float32: red, green, blue, row and column of each pixel."""
    photo = photograph()
    height, width, _ = photo.shape
    position = np.stack(np.mgrid[:height, :width], axis=-1).astype(np.float32) / height * POSITION_WEIGHT
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["X"] = np.concatenate([photo, position], axis=-1).reshape(-1, 5)
        file["X"].attrs["columns"] = ["red", "green", "blue", "row", "column"]


def write_picture(labels_path: Path, path: Path) -> None:
    """Write a picture of the photograph and, beside it, its segments, each in its mean colour."""
    photo = photograph()
    with h5py.File(labels_path) as file:
        labels = file["labels"][()]
    colours = photo.reshape(-1, 3)
    segments = np.zeros_like(colours)
    for label in np.unique(labels):
        segments[labels == label] = colours[labels == label].mean(axis=0)
    both = np.concatenate([photo, segments.reshape(photo.shape)], axis=1)
    Image.fromarray((both * 255).round().astype(np.uint8)).save(path)
    print(f"the photograph and its {len(np.unique(labels))} segments: {path.resolve()}")


if __name__ == "__main__":
    if sys.argv[1] == "features":
        write_features(Path(sys.argv[2]))
    else:
        write_picture(Path(sys.argv[2]), Path(sys.argv[3]))
