#!/usr/bin/env bash
# Carries what a machine with a GPU and without a network lacks, beside torch, torchvision, timm, transformers, h5py,
# pyarrow and the small packages that come with them. It needs about 50 MB, in the versions of constraints.txt.
#
#   bash bench/gpu_wheels.sh download WHEELS [3.12]     here: fetch the wheels for that Python on Linux x86-64
#   eval "$(bash bench/gpu_wheels.sh install WHEELS SITE)"   there: install them into SITE and set the environment
#
# "install" touches nothing outside SITE. What it prints puts SITE on PYTHONPATH, and the FFmpeg libraries that PyAV
# brings where torchcodec looks for FFmpeg, so that the machine needs none of its own.
set -euo pipefail

PACKAGES="annotated-types av ftfy open_clip_torch pydantic pydantic_core torchcodec==0.17.0 typing-inspection wcwidth"
PLATFORMS="manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1"

verb=${1:?download or install}
wheels=${2:?the folder of the wheels}
constraints=$(dirname "$0")/../constraints.txt
python=${PYTHON:-python3}

# The line of a package in constraints.txt; its bare name if it has none.
pinned() {
  grep -iE "^$(printf %s "$1" | sed 's/[-_]/[-_]/g')==" "$constraints" || echo "$1"
}

case $verb in
  download)
    version=${3:-3.12}
    platforms=()
    for platform in $PLATFORMS; do platforms+=(--platform "${platform}_x86_64"); done
    mkdir -p "$wheels"
    for package in $PACKAGES; do
      "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" \
        --implementation cp "${platforms[@]}" --dest "$wheels" "$(pinned "$package")"
    done
    # It is published as source only, and is plain Python.
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$wheels" "$(pinned torchvggish)"
    du -sh "$wheels" >&2
    ;;
  install)
    site=${3:?the folder to install into}
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "$wheels"/*.whl >&2
    site=$(cd "$site" && pwd)
    mkdir -p "$site/ffmpeg"
    # PyAV's wheel has libavcodec-0a1b2c3d.so.62.11.100; torchcodec asks for libavcodec.so.62.
    for library in "$site"/av.libs/lib{av,sw}*.so.*; do
      name=$(basename "$library")
      major=${name#*.so.}
      ln -sf "$library" "$site/ffmpeg/${name%%-*}.so.${major%%.*}"
    done
    echo "export PYTHONPATH='$site'\${PYTHONPATH:+:\$PYTHONPATH}"
    echo "export LD_LIBRARY_PATH='$site/ffmpeg:$site/av.libs'\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
    ;;
  *)
    echo "$verb: say download or install" >&2
    exit 2
    ;;
esac
