# %% [markdown]
# # Use exported weights
#
# A training exports its teacher's backbone as one safetensors file. Here it embeds images and finds the nearest ones. The notebook reads the run of `dinoforge quickstart`; set `DINOFORGE_RUN` for
# another one.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dinoforge.encoders.make import make_encoder
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
