#!/usr/bin/env bash
# Start a Ray cluster on this machine with token authentication, run jobs/extract.py there on a few clips, and stop it.
#   bash examples/ray_job.sh OUT
set -euo pipefail
out="$(mkdir -p "${1:?give an output folder}" && cd "$1" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$out/ray_auth_token"
export RAY_API_SERVER_ADDRESS="http://127.0.0.1:${RAY_DASHBOARD_PORT:-8265}"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")

python - "$out/videos" <<'PY'
import sys
from pathlib import Path
from examples.clips import write_clip
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
for index in range(6):
    write_clip(folder / f"clip{index}.mp4", seed=index, seconds=3 + index)
PY

ray start --head --num-cpus "$(nproc)" --port "${RAY_PORT:-6379}" --dashboard-port "${RAY_DASHBOARD_PORT:-8265}" \
  --dashboard-agent-listen-port "${RAY_AGENT_PORT:-52365}" --disable-usage-stats > "$out/ray_start.log" 2>&1 || { cat "$out/ray_start.log"; exit 1; }
trap 'ray stop > /dev/null 2>&1' EXIT
ray job submit --working-dir . -- python jobs/extract.py "$out/videos" --store "$out/store" --preset demo
python jobs/extract.py "$out/videos" --store "$out/store" --preset demo
python jobs/store.py verify "$out/store" --deep
