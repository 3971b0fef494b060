#!/bin/sh
# Compile the constraint file for CPU machines. torch is pinned: 2.13.0 has a CPU wheel that pip
# finds under the plain version; a looser pin may resolve to gigabytes of CUDA wheels.
set -eu
bin=$1
out=requirements/constraints-cpu.txt
pin=$(mktemp)
echo "torch==2.13.0" > "$pin"
"$bin/pip-compile" --quiet --upgrade --strip-extras --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links --constraint "$pin" --output-file "$out.tmp" \
  --extra cpu --extra heic --extra quickstart --extra pretrained --extra hf --extra onnx --extra nsfw --extra faces --extra demo --extra gs --extra s3 --extra timm \
  --extra video --extra tensorboard --extra docs --extra dev pyproject.toml
{
  echo "# Compiled by \`make constraints\` (pip-tools) from pyproject.toml for Python 3.11 on CPU machines."
  sed -e 's/^torch==2.13.0+cpu/torch==2.13.0/' -e '/^#/d' -e '/^$/d' "$out.tmp"
} > "$out"
rm -f "$out.tmp" "$pin"
