"""Write a backbone for another library, and prove that it gives the same features there."""

import contextlib
import functools
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dinoforge import __version__
from dinoforge.config.keys import nearest
from dinoforge.errors import DinoforgeError, UsageError, cannot_write, some_of
from dinoforge.exports import dino_checkpoint, hub, programs, timm_folder, transformers_folder
from dinoforge.exports.comparison import TOLERANCE, Difference, Tokens, compare
from dinoforge.exports.images import made_images
from dinoforge.exports.source import Source
from dinoforge.files import fsync_folder, is_temporary, temporary_name, write_json
from dinoforge.models.config import PositionMode, VitConfig
from dinoforge.packages import import_extra
from dinoforge.processes import is_alive

__all__ = ["FORMATS", "Exported", "export_backbone", "find_format"]

_RECORD = "export.json"
_CACHE = "__pycache__"  # torch.hub imports from the folder


@dataclass(frozen=True)
class Format:
    """A library or file format to export to."""

    write: Callable[[Source, Path], None]
    load: Callable[[Path, bool], Callable[[Tensor], Tokens]]  # see `compare`
    use: str  # how to open it, with FOLDER and NAME
    extra: str = ""
    packages: tuple[str, ...] = ()  # of this extra
    find_obstacles: Callable[[VitConfig], Iterable[str]] = lambda _: ()
    # How the library resamples learned positions.
    positions: Callable[[VitConfig], PositionMode] = lambda config: config.positions
    entry: Callable[[VitConfig], str] = hub.entry_name  # what NAME is in `use`


FORMATS: Mapping[str, Format] = {
    "timm": Format(
        timm_folder.write_timm,
        timm_folder.load_timm,
        'timm.create_model("local-dir:FOLDER", pretrained=True)',
        "timm",
        ("timm",),
        timm_folder.find_timm_obstacles,
        lambda _: "size_antialias",
    ),
    "hf": Format(
        transformers_folder.write_transformers,
        transformers_folder.load_transformers,
        'transformers.AutoModel.from_pretrained("FOLDER")',
        "hf",
        ("transformers",),
        transformers_folder.find_transformers_obstacles,
        transformers_folder.transformers_positions,
    ),
    "hub": Format(hub.write_hub, hub.load_hub, 'torch.hub.load("FOLDER", "NAME", source="local")'),
    "onnx": Format(
        programs.write_onnx,
        programs.load_onnx,
        'onnxruntime.InferenceSession("FOLDER/model.onnx")',
        "onnx",
        ("onnx", "onnxscript", "onnxruntime"),
    ),
    "torchscript": Format(
        programs.write_torchscript, programs.load_torchscript, 'torch.jit.load("FOLDER/model.pt")'
    ),
    "dino": Format(
        dino_checkpoint.write_dino,
        dino_checkpoint.load_dino,
        "python eval_knn.py --pretrained_weights FOLDER/checkpoint.pth --arch NAME",
        find_obstacles=dino_checkpoint.find_dino_obstacles,
        entry=dino_checkpoint.dino_arguments,
        positions=lambda _: "offset",
    ),
}


@dataclass(frozen=True)
class Exported:
    """What was written, and how far its features are from ours; stored as ``export.json``."""

    dinoforge: str  # version
    format: str
    use: str
    backbone: str
    source: dict[str, str]
    positions: str
    resampled_as: str  # by the library; another mode than `positions`: equal at the native size
    image_size: int  # pixels, native
    images: int  # compared
    tolerance: float
    differences: list[dict[str, Any]]  # of `Difference`
    versions: dict[str, str]
    files: list[str]


def find_format(name: str) -> Format:
    """Return a format; raise a `UsageError` that names the most similar if there is none."""
    if name not in FORMATS:
        near = nearest(name, FORMATS)
        hint = f" (did you mean `{near}`?)" if near else ""
        do = f"choose from {', '.join(FORMATS)}"
        raise UsageError(what=f"unknown format `{name}`{hint}", where="--to", do=do)
    return FORMATS[name]


def export_backbone(
    source: Source, name: str, out: Path, *, images: list[NDArray[np.uint8]] | None = None
) -> Exported:
    """Export to the folder ``out`` in a format of `FORMATS`; complete or not there at all.

    The result is loaded by its library and compared with ours on ``images`` (default: made ones).
    An earlier export in ``out`` is replaced; of a link, where it leads.

    Raises
    ------
    UsageError
        If the format cannot hold the backbone, its extra is missing, or ``out`` has other files.
    DinoforgeError
        If the features differ by more than `TOLERANCE` and rounding; nothing is written then.
    """
    form = find_format(name)
    for package in form.packages:
        import_extra(package, extra=form.extra, where=f"--to {name}")
    if obstacles := list(form.find_obstacles(source.config)):
        raise UsageError(
            what=f"{name} does not support {', or '.join(obstacles)}",
            where=str(source.path),
            do=f"choose from {', '.join(other for other in FORMATS if other != name)}",
        )
    out = out.resolve()
    _check_out(out)
    with _complete_folder(out) as folder:
        form.write(source, folder)
        load = functools.partial(form.load, folder)
        resampled_as = form.positions(source.config)
        every_size = resampled_as == source.config.positions
        images = images or made_images()
        differences = compare(source, load, images, every_size=every_size)
        _check(differences, name, source)
        exported = Exported(
            dinoforge=__version__,
            format=name,
            use=form.use.replace("NAME", form.entry(source.config)),
            backbone=source.config.name,
            source={"name": source.path.name, **source.facts},
            positions=source.config.positions,
            resampled_as=resampled_as,
            image_size=source.config.image_size,
            images=len(images),
            tolerance=TOLERANCE,
            differences=[asdict(difference) for difference in differences],
            versions={p: importlib.metadata.version(p) for p in ("torch", *form.packages)},
            files=sorted({path.name for path in folder.iterdir()} - {_CACHE}),
        )
        write_json(folder / _RECORD, asdict(exported))
    return exported


def _check(differences: list[Difference], name: str, source: Source) -> None:
    for one in differences:
        if one.expected and not one.equal:
            text = (
                f"{name} does not give the same features: {one.output} differs by "
                f"{one.largest:.3g} at {one.height} x {one.width}, {one.relative:.3g} of its scale "
                f"(tolerance {TOLERANCE:g}, rounding {one.rounding:.3g}) - {source.path} - nothing "
                "was written; report it with the sizes of this backbone"
            )
            raise DinoforgeError(text)


def _check_out(out: Path) -> None:
    """Stop unless ``out`` can become a folder, or be replaced without a loss."""
    own: set[str] = set()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        files = json.loads((out / _RECORD).read_text(encoding="utf-8"))["files"]
        own = {_RECORD, _CACHE, *files}
    others = sorted({path.name for path in out.iterdir()} - own) if out.is_dir() else []
    what = ""
    if others:
        what = f"holds files that no export wrote ({some_of(others, 3)})"
    elif out == Path.cwd():
        what = "the working folder cannot be replaced"
    elif out.exists() and not out.is_dir():
        what = "not a folder"
    if what:
        raise UsageError(what=what, where=str(out), do="choose another --out")


@contextlib.contextmanager
def _complete_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``out`` at the end, and is removed after an error."""
    folder, old = temporary_name(out), temporary_name(out.with_name(f"{out.name}.old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beginnings = tuple(path.name.rpartition("-")[0] for path in (folder, old))
        for left in [path for path in out.parent.iterdir() if path.name.startswith(beginnings)]:
            if is_temporary(left) and not is_alive(int(left.name.rpartition("-")[2])):
                shutil.rmtree(left, ignore_errors=True)  # of a killed export from this machine
        folder.mkdir()
        yield folder
        if out.exists():
            out.rename(old)
        folder.rename(out)
        fsync_folder(out.parent)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
