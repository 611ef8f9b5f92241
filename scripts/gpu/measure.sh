#!/usr/bin/env bash
# Measures and trains on this machine's GPU, within ten minutes; results go to FOLDER. See README.md beside this file.
#   scripts/gpu/measure.sh FOLDER                    all steps
#   scripts/gpu/measure.sh --only latent FOLDER      one (or several: --only smoke,train)
#   scripts/gpu/measure.sh --rehearse FOLDER         all of it on a CPU, with tiny shapes
# PYTHON names the interpreter (python3), DOPPEL_GPU_PACK the folder that pack.py made (.gpu), if there is one.
set -euo pipefail
started=$(date +%s)
kit=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$kit/../.." && pwd)
python=${PYTHON:-python3}
pack=${DOPPEL_GPU_PACK:-$root/.gpu}
export PYTHONPATH="$root:$root/scripts:$kit${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
if [ -d "$pack" ]; then
  shopt -s nullglob
  wheels=("$pack"/*/*.whl)
  site=${TMPDIR:-/tmp}/doppel-gpu-site
  if [ ${#wheels[@]} -gt 0 ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "${wheels[@]}" ||
      echo "the wheels of $pack cannot be installed; steps that miss them will say so" >&2
  fi
  export PYTHONPATH="$PYTHONPATH:$site" DOPPEL_GPU_DATA="$pack/data"
  [ ! -f "$pack/data/commit" ] || export DOPPEL_COMMIT=$(cat "$pack/data/commit")
  [ ! -d "$pack/faces/.deepface" ] || export DEEPFACE_HOME="$pack/faces"
fi
exec "$python" "$kit/measure.py" --started "$started" "$@"
