"""Networks stored with their program: TorchScript and ONNX.

The defaults are those of SSCD (Pizzi et al. 2022), whose released TorchScript files are the usual
case: the whole image at 320 x 320 pixels, as its authors recommend for batches, and ImageNet's mean
and standard deviation. The files may contain others, as `normalization_of` reads them, and
``image_size``: TorchScript among the extra files of `torch.jit.save`, ONNX in its metadata.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dinoforge.device import resolve_device
from dinoforge.encoders.network import Transform, normalization_of
from dinoforge.encoders.network_encoder import NetworkEncoder
from dinoforge.errors import UsageError, first_line
from dinoforge.files import hash_json, path_text, sha256_file
from dinoforge.models.weights import damaged_metadata
from dinoforge.packages import import_extra

__all__ = ["ProgramSpec", "onnx_encoder", "split_program", "torchscript_encoder"]

_SIDE = 320
_LARGEST_SIDE = 4096
_KEYS = ("image_size", "image_mean", "image_std")
_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
}
# Its scale is that of the whole batch: the vector of an image would depend on the others.
_DYNAMIC = b"DynamicQuantizeLinear"
# A string of protocol buffers: where the weights are if not in the ONNX file itself. Its length is
# one byte, or two if the first is above 127.
_LOCATION = re.compile(rb"\n\x08location\x12([\x80-\xff]?[\x00-\x7f])", re.DOTALL)


class ProgramSpec(NamedTuple):
    """The parts of ``FILE#SIDE,crop``."""

    path: Path
    side: int = 0  # pixels; 0: not named
    crop: bool = False  # shorter side to SIDE and the center, instead of the whole image

    def name(self, kind: str) -> str:
        """Return the spec of an encoder."""
        options = [str(self.side)] * bool(self.side) + ["crop"] * self.crop
        return f"{kind}:{path_text(self.path)}" + "#" * bool(options) + ",".join(options)


def split_program(text: str) -> ProgramSpec:
    """Split ``FILE#SIDE,crop``; each option may be left out.

    A ``#`` belongs to the path unless options follow it to the end.
    """
    path, _, tail = text.rpartition("#")
    options = tail.split(",")
    sides = [int(option) for option in options if option.isascii() and option.isdigit()]
    crops = options.count("crop")
    if len(sides) > 1 or crops > 1 or len(sides) + crops < len(options) or not all(sides):
        return ProgramSpec(Path(text))
    return ProgramSpec(Path(path), sides[0] if sides else 0, crop=bool(crops))


def torchscript_encoder(spec: ProgramSpec, *, device: str = "cpu") -> NetworkEncoder:
    """Make the encoder of a TorchScript file: images ``[B, 3, S, S]`` to vectors ``[B, D]``.

    Raises
    ------
    UsageError
        If the file is missing or no TorchScript, fails on an image, or does not give vectors.
    """
    _check_file(spec.path)
    resolve_device(device)
    notes: dict[str, Any] = dict.fromkeys(_KEYS, "")  # becomes bytes
    try:
        with warnings.catch_warnings(), spec.path.open("rb") as file:
            warnings.simplefilter("ignore")  # that TorchScript is deprecated: the files exist
            network = torch.jit.load(file, map_location=device, _extra_files=notes)
    except RuntimeError as error:
        raise UsageError(
            what=f"not a TorchScript program: {first_line(error)}",
            where=str(spec.path),
            do="give the file of a scripted or traced network; weights: checkpoint:FILE",
        ) from error
    network = network.eval()

    def forward(batch_B3SS: Tensor) -> Any:
        # Optimized programs change after some calls, and with them the last bits.
        with torch.jit.optimized_execution(False):
            return network(batch_B3SS)

    texts = {k: v.decode(errors="replace") for k, v in notes.items() if v}
    transform = _transform(spec, texts)
    name, weights = spec.name("torchscript"), sha256_file(spec.path)
    return NetworkEncoder(name, forward, transform, weights=weights, device=device)


def onnx_encoder(spec: ProgramSpec) -> NetworkEncoder:
    """Make the encoder of an ONNX file, run by onnxruntime (extra `onnx`) on the CPU.

    The network has one input, float or uint8 (then without normalization), channels first or last;
    if its size is fixed it is the size of images, and a fixed batch that of batches. Its first
    output is one vector per image.

    Raises
    ------
    UsageError
        If the file or the package is missing, or the network has no such input and output.
    """
    _check_file(spec.path)
    session = _session(spec.path)
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    dtype = _DTYPES.get(inputs[0].type) if inputs else None
    channels_last = len(shape) == 4 and shape[3] == 3
    if dtype is None or len(shape) != 4 or not (channels_last or shape[1] in {3, *_names(shape)}):
        described = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise UsageError(
            what=f"not a network of images: inputs {described}",
            where=str(spec.path),
            do="give one with one input, float or uint8, [B, 3, S, S] or [B, S, S, 3]",
        )
    fixed = [size for size in (shape[1:3] if channels_last else shape[2:]) if isinstance(size, int)]
    if len({*fixed, spec.side or (fixed or [0])[0]}) > 1:
        raise UsageError(
            what=f"the network takes images of {' x '.join(map(str, fixed))} pixels",
            where=spec.name("onnx"),
            do="leave out the side, or export a network of any square size",
        )
    name, output = inputs[0].name, session.get_outputs()[0].name

    def forward(batch_B3SS: Tensor) -> Tensor:
        batch = batch_B3SS.permute(0, 2, 3, 1) if channels_last else batch_B3SS
        batch = batch.round().to(dtype) if dtype == torch.uint8 else batch.to(dtype)
        try:
            (rows,) = session.run([output], {name: batch.contiguous().numpy()})
        except Exception as error:  # classes of its own, which are not public
            raise RuntimeError(str(error)) from error
        vectors = torch.from_numpy(rows).float()
        return vectors.flatten(1) if vectors.ndim > 2 else vectors

    notes = {**session.get_modelmeta().custom_metadata_map}
    if fixed:
        notes["image_size"] = str(fixed[0])
    transform = _transform(spec, notes)
    if dtype == torch.uint8:
        transform = Transform(transform.side, (0.0,) * 3, (1 / 255,) * 3, crop=transform.crop)
    size = shape[0] if isinstance(shape[0], int) else 1 if _is_dynamic(spec.path) else 0
    weights = _weights_hash(spec.path)
    return NetworkEncoder(
        spec.name("onnx"), forward, transform, weights=weights, batch_size=size, is_torch=False
    )


def _session(path: Path) -> Any:
    onnxruntime: Any = import_extra("onnxruntime", extra="onnx", where=f"onnx:{path}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised, too
    options.intra_op_num_threads = 1  # threads encode one batch each
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of its own, which are not public
        raise UsageError(
            what=f"not an ONNX network: {first_line(error)}",
            where=str(path),
            do="give an .onnx file that onnxruntime loads",
        ) from error


def _transform(spec: ProgramSpec, notes: Mapping[str, str]) -> Transform:
    where = str(spec.path)
    try:
        side = spec.side or int(notes.get("image_size", _SIDE))
    except ValueError as error:
        raise damaged_metadata("image_size", where) from error
    if side < 1:
        raise damaged_metadata("image_size", where)
    if side > _LARGEST_SIDE:
        do = f"give a side of at most {_LARGEST_SIDE}"
        raise UsageError(what=f"images of {side} x {side} pixels", where=where, do=do)
    return Transform(side, *normalization_of(notes, where), crop=spec.crop)


def _names(shape: list[Any]) -> list[Any]:
    """Return the sizes of an input that are not fixed."""
    return [size for size in shape if not isinstance(size, int)]


def _is_dynamic(path: Path) -> bool:
    return _DYNAMIC in path.read_bytes()


def _weights_hash(path: Path) -> str:
    """Return the SHA-256 of an ONNX file, or one of it and the files that its weights are in."""
    program = path.read_bytes()
    names = set()
    for match in _LOCATION.finditer(program):
        low, *high = match[1]
        length = (low & 0x7F) | (high[0] << 7 if high else 0)
        names.add(program[match.end() : match.end() + length].decode())
    sums = [sha256_file(path.parent / name) for name in sorted(names)]
    return hash_json([sha256_file(path), *sums]) if sums else sha256_file(path)


def _check_file(path: Path) -> None:
    if not path.is_file():
        do = "give the path of the file; options after # are SIDE and crop"
        raise UsageError(what="no such file", where=str(path), do=do)
