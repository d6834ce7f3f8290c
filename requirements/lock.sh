#!/usr/bin/env bash
# Rewrites the hashed lists from the .in files (needs uv on the PATH). torch and what only torch's CUDA
# build pulls in stay out: torch.txt is installed first, by plain pip, in the build that fits the machine.
set -euo pipefail
cd "$(dirname "$0")"
skip=()
for package in torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cccl nvidia-cuda-cupti \
    nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
    nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx; do
    skip+=(--no-emit-package "$package")
done
for layer in dev pipeline train policy sender meta encoder candles base; do
    constraint=(); [ "$layer" = dev ] || constraint=(--constraint dev.txt)
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links "${skip[@]}" "${constraint[@]}" -o "$layer.txt" "$layer.in"
    echo "$layer.txt: $(grep -c '^[a-zA-Z]' "$layer.txt") packages"
done
