# %% [markdown]
# # PCA and matching of patches
#
# A ViT gives a vector per patch. Three principal components of all patches of some images, shown as red, green and blue, show what the network takes for the same thing: parts of objects get the same
# color in different images (DINOv2, Oquab et al. 2023, section 7.5). `dinoforge.demo.views` has these colors and the other views of `dinoforge demo` as functions. The notebook reads a backbone that `dinoforge quickstart` exported; set `DINOFORGE_RUN` for another run, `DINOFORGE_IMAGES` for a folder
# of your own images, `DINOFORGE_SIDE` for another size.

# %%
import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinoforge.demo.views import (
    color_features,
    draw_colors,
    draw_map,
    draw_matches,
    keep_one_motion,
    match_patches,
    similarity_map,
)
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
# ## Features of patches

# %%
steps = exported_steps(run)
model, config, metadata, _ = open_backbone(steps[max(steps)])
mean, std = (torch.tensor(x)[:, None, None] for x in normalization_of(metadata, str(run)))


def outputs_of(pictures):
    """Features of patches and the attention on them, each with a row and a column per patch."""
    pixels = [(torch.tensor(np.asarray(x)).movedim(2, 0) / 255 - mean) / std for x in pictures]
    rows = pictures[0].height // config.patch_size
    with torch.inference_mode():
        outputs = model.last_block(torch.stack(pixels))
    features, attention = outputs["x_norm_patchtokens"], outputs["attention"].mean(1)
    return features.unflatten(1, (rows, -1)).numpy(), attention.unflatten(1, (rows, -1)).numpy()


features, attention = outputs_of(images)
features.shape

# %% [markdown]
# ## Colors
#
# One PCA over the patches of all images, so that a color means the same in each. With a threshold between 0 and 1 instead of `None`, the patches below it on the first component become a black
# background: as on the page of the demo, and better for networks that separate objects.

# %%
colors = color_features(features, threshold=None)
components = row([Image.fromarray(draw_colors(colors.color(one))) for one in features])
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
looks = row([Image.fromarray(draw_map(one)) for one in attention])
looks

# %% [markdown]
# ## Similar patches
#
# One patch of the first image, a bit left of and above its middle, and the cosine of every patch to it: each image from its lowest, dark, to its highest.

# %%
y, x = (int(share * features.shape[1]) for share in (0.4, 0.45))
row([Image.fromarray(draw_map(similarity_map(one, features[0, y, x]))) for one in features])

# %% [markdown]
# ## Matching
#
# The first image and the same at three quarters of the size: patches that are each other's nearest, of which those that agree on one motion are drawn, every fifth.

# %%
smaller = images[0].resize([config.patch_size * (3 * features.shape[1] // 4)] * 2)
matches = match_patches(features[0], outputs_of([smaller])[0][0])
agreeing = keep_one_motion(matches)
is_right = (abs((agreeing.b + 0.5) * side / smaller.width - agreeing.a - 0.5) <= 1).all(axis=1)
print(f"{len(matches.a)} pairs, {len(agreeing.a)} with one motion, {is_right.sum()} of them right")
shown = agreeing.keep(np.arange(len(agreeing.a)) % 5 == 0)
Image.fromarray(
    draw_matches(np.asarray(images[0]), np.asarray(smaller), shown, patch=config.patch_size)
)

# %% [markdown]
# With `DINOFORGE_PICTURE`, the first three rows are stored in this file.

# %%
if "DINOFORGE_PICTURE" in os.environ:
    rows = [row(images), components, looks]
    page = Image.new("RGB", (rows[0].width, side * len(rows)))
    for y, one in enumerate(rows):
        page.paste(one, (0, y * side))
    page.save(os.environ["DINOFORGE_PICTURE"], quality=80)
