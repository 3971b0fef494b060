# %% [markdown]
# # PCA of patches
#
# A ViT gives a vector per patch. Three principal components of all patches of some images, shown as red, green and blue, show what the network takes for the same thing: parts of objects get the same
# color in different images (DINOv2, Oquab et al. 2023, section 7.5). The notebook reads a backbone that `dinoforge quickstart` exported; set `DINOFORGE_RUN` for another run, `DINOFORGE_IMAGES` for a folder
# of your own images, `DINOFORGE_SIDE` for another size.

# %%
import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinoforge.encoders.backbone import open_backbone
from dinoforge.encoders.network import normalization_of
from dinoforge.images import decode
from dinoforge.steps import exported_steps

run = Path(os.environ.get("DINOFORGE_RUN", "runs/quickstart")) / "training"
side = int(os.environ.get("DINOFORGE_SIDE", "256"))

# %% [markdown]
# ## Images
#
# By default four photographs that are installed with scikit-image.

# %%
photographs = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
if "DINOFORGE_IMAGES" in os.environ:
    files = sorted(Path(os.environ["DINOFORGE_IMAGES"]).iterdir())[:8]
else:
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    files = [folder / name for name in photographs if (folder / name).is_file()]


def square(file):
    pixels = Image.fromarray(decode(file.read_bytes()))
    edge = min(pixels.size)
    left, top = (pixels.width - edge) // 2, (pixels.height - edge) // 2
    return pixels.crop((left, top, left + edge, top + edge)).resize((side, side))


images = [square(file) for file in files]


def row(pictures):
    """Pictures side by side."""
    page = Image.new("RGB", (side * len(pictures), side))
    for x, one in enumerate(pictures):
        page.paste(one.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (x * side, 0))
    return page


row(images)

# %% [markdown]
# ## Patch tokens

# %%
steps = exported_steps(run)
model, config, metadata, _ = open_backbone(steps[max(steps)])
mean, std = (torch.tensor(x)[:, None, None] for x in normalization_of(metadata, str(run)))
pixels_B3XY = torch.stack(
    [(torch.tensor(np.asarray(x)).movedim(2, 0) / 255 - mean) / std for x in images]
)
with torch.inference_mode():
    outputs = model.last_block(pixels_B3XY)
patches_BND = outputs["x_norm_patchtokens"]
grid = side // config.patch_size
patches_BND.shape

# %% [markdown]
# ## Colors
#
# One PCA over the patches of all images, so that a color means the same in each.

# %%
tokens = patches_BND.flatten(0, 1).double()
_, _, axes = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
colors = (tokens - tokens.mean(0)) @ axes[:3].T
low, high = torch.quantile(colors, 0.02, dim=0), torch.quantile(colors, 0.98, dim=0)
shares = ((colors - low) / (high - low)).clamp(0, 1)
maps = (255 * shares).byte().unflatten(0, (len(images), grid, grid)).numpy()
components = row([Image.fromarray(one) for one in maps])
components

# %% [markdown]
# The result for the quickstart's network, four blocks trained for minutes. So small a network separates surfaces by color, brightness and edges; a large one separates objects and their parts.
#
# ![Four photographs, the three principal components of their patches as colors, and the attention of the class token](../images/patches.jpg)
#
# ## Attention
#
# Where the class token looks in the last block, the mean over heads.

# %%
attention_BN = outputs["attention"].mean(1)
heat = attention_BN / attention_BN.amax(1, keepdim=True)
heat = (255 * heat).byte().unflatten(1, (grid, grid)).numpy()
attention = row([Image.fromarray(one) for one in heat])
attention

# %% [markdown]
# With `DINOFORGE_PICTURE`, the three rows are stored in this file.

# %%
if "DINOFORGE_PICTURE" in os.environ:
    rows = [row(images), components, attention]
    page = Image.new("RGB", (rows[0].width, side * len(rows)))
    for y, one in enumerate(rows):
        page.paste(one, (0, y * side))
    page.save(os.environ["DINOFORGE_PICTURE"], quality=80)
