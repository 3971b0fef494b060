# %% [markdown]
# # Use exported weights
#
# A training exports its teacher's backbone as one safetensors file. Here it embeds images and finds the nearest ones. The notebook reads the run of `dinoforge quickstart`; set `DINOFORGE_RUN` for
# another one.

# %%
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.network import normalization_of
from dinoforge.exports.export import export_backbone
from dinoforge.exports.source import open_source
from dinoforge.images import decode
from dinoforge.models.weights import load_backbone
from dinoforge.neighbors.search import top_k
from dinoforge.steps import exported_steps

run = Path(os.environ.get("DINOFORGE_RUN", "runs/quickstart"))
steps = exported_steps(run / "training")
weights = steps[max(steps)]
weights

# %% [markdown]
# ## The model
#
# A `torch.nn.Module`: images in, class tokens out. `forward_features` also gives the tokens of all patches. The metadata state what the file needs: crop size, mean and standard deviation.

# %%
model, config, metadata = load_backbone(weights)
print(
    f"{sum(p.numel() for p in model.parameters()):,} parameters, {config.depth} blocks of {config.width}"
)
metadata

# %% [markdown]
# ## Embed images
#
# An encoder does the rest: resize, normalize, run, join class token and patch mean. Its rows have length 1, so that inner products are cosines.

# %%
files = sorted((run / "images/test").rglob("*.png"))[::3]
images = [decode(file.read_bytes()) for file in files]
encoder = make_encoder(f"checkpoint:{weights}#both")
vectors = encoder.encode(images)
vectors.shape

# %% [markdown]
# ## Nearest neighbors
#
# Five tiles and their nearest neighbors, the tile itself first.

# %%
queries = np.linspace(0, len(files) - 1, 5).astype(int)
near = top_k(vectors[queries], vectors, k=8)


def sheet(rows, side=96):
    page = Image.new("RGB", (side * len(rows[0]), side * len(rows)))
    for y, row in enumerate(rows):
        for x, index in enumerate(row):
            page.paste(Image.fromarray(images[index]).resize((side, side)), (x * side, y * side))
    return page


sheet(near.ids)

# %% [markdown]
# How often the nearest other tile is from the same photograph, beside pixels:

# %%
classes = np.array([file.parent.name for file in files])


def same_photograph(vectors):
    return (classes[top_k(vectors, vectors, k=2).ids[:, 1]] == classes).mean()


pd.Series(
    {
        "trained": same_photograph(vectors),
        "untrained": same_photograph(make_encoder(f"checkpoint:{steps[0]}#both").encode(images)),
        "pixels": same_photograph(make_encoder("pixels_centered").encode(images)),
    },
    name="nearest tile is of the same photograph",
)

# %% [markdown]
# ## In other libraries
#
# `dinoforge export RUN --to hub --out FOLDER` writes the backbone for torch.hub, and `hf`, `timm`, `onnx` and `torchscript` for others. An export needs no dinoforge to be loaded, and was compared
# with the original before it got its name. Here the same pixels go through each of them.

# %%
exports = Path(tempfile.mkdtemp())
side = config.image_size
pixels_B3XY = torch.tensor(
    np.stack([np.asarray(Image.fromarray(x).resize((side, side))) for x in images[:8]])
)
mean, std = (torch.tensor(x)[:, None, None] for x in normalization_of(metadata, str(weights)))
pixels_B3XY = (pixels_B3XY.movedim(3, 1) / 255 - mean) / std
tokens = {}
with torch.inference_mode():
    tokens["dinoforge"] = model(pixels_B3XY)

# %%
exported = export_backbone(open_source(weights), "hub", exports / "hub")
print(exported.use)
network = torch.hub.load(str(exports / "hub"), f"dinoforge_{exported.backbone}", source="local")
with torch.inference_mode():
    tokens["torch.hub"] = network(pixels_B3XY)

# %%
if importlib.util.find_spec("transformers"):
    import transformers

    print(export_backbone(open_source(weights), "hf", exports / "hf").use)
    network = transformers.AutoModel.from_pretrained(exports / "hf").eval()
    with torch.inference_mode():
        tokens["transformers"] = network(pixels_B3XY).pooler_output

# %%
if importlib.util.find_spec("timm"):
    import timm

    print(export_backbone(open_source(weights), "timm", exports / "timm").use)
    network = timm.create_model(f"local-dir:{exports / 'timm'}", pretrained=True).eval()
    with torch.inference_mode():
        tokens["timm"] = network(pixels_B3XY)

# %% [markdown]
# The class tokens agree up to rounding. At other image sizes timm and transformers resample positions in their own way; `dinoforge export` prints by how much that changes the features.

# %%
shutil.rmtree(exports)
difference = {name: (x - tokens["dinoforge"]).abs().max().item() for name, x in tokens.items()}
assert max(difference.values()) < 1e-4
pd.Series(difference, name="largest difference of class tokens")
