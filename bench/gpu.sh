#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command that needs no pip and no network:
#
#     bash bench/gpu.sh FOLDER [STAGE ...]
#
# Stages, in this order and each under its own timeout: ceilings build distance-tests engine-tests engines graphs convolutions distance
# condensation compiled; and chunks, where it is asked for. FOLDER gets results.jsonl, log.txt and a picture. PYTHON names the interpreter (python3); FASHION_MNIST the folder of
# FashionMNIST's four gzipped files (.data/fashion-mnist here, or Debian's). Without a GPU everything that can run runs small.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
all=(ceilings build distance-tests engine-tests engines graphs convolutions distance condensation compiled)
declare -A limit=([ceilings]=25 [build]=40 [distance-tests]=60 [engine-tests]=120 [engines]=170 [chunks]=110 [graphs]=30 [convolutions]=60 [distance]=45 [condensation]=100 [compiled]=60)

[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1" || exit 2
folder=$(cd "$1" && pwd)
shift
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=("${all[@]}")
for stage in "${stages[@]}"; do
  [ -n "${limit[$stage]:-}" ] || { echo "unknown stage '$stage'; expected some of: ${all[*]}" >&2; exit 2; }
done

layout=$(mktemp -d)
exec > >(tee -a "$folder/log.txt") 2>&1
log=$!
trap 'rm -rf "$layout"; exec >&- 2>&-; wait "$log"' EXIT
export PYTHONPATH="$layout:$root/bench" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# The package as it is installed: kernels/ is fastdc/kernels there.
cp -r "$root/fastdc" "$layout/fastdc" && rm -rf "$layout/fastdc/kernels" && cp -r "$root/kernels" "$layout/fastdc/kernels"
for data in "${FASHION_MNIST:-$root/.data/fashion-mnist}" /usr/share/datasets/fashion-mnist; do
  if compgen -G "$data/train-images-idx3-ubyte*" >/dev/null; then
    raw="$layout/data/FashionMNIST/raw"
    mkdir -p "$raw" && ln -s "$(cd "$data" && pwd)"/*-ubyte* "$raw" && export FASTDC_GPU_DATA="$layout/data"
    break
  fi
done

capability=$(cd "$layout" && "$python" -c 'import torch; print(*torch.cuda.get_device_capability() if torch.cuda.is_available() else (), sep="")')
if [ -n "$capability" ]; then
  export FASTDC_REQUIRE_CUDA=1 FASTDC_CUDA_ARCHITECTURES=${FASTDC_CUDA_ARCHITECTURES:-$capability}
else
  export FASTDC_CUDA_TESTS_ON_CPU=1 FASTDC_BACKEND=${FASTDC_BACKEND:-reference}
fi

record() { # stage, further fields of a JSON object
  echo "{\"stage\": \"$1\", \"what\": \"stage\", $2}" | tee -a "$folder/results.jsonl"
}

build() {
  if [ -z "$capability" ]; then
    record build '"skipped": "torch sees no CUDA device"'
  elif ! command -v nvcc >/dev/null; then
    record build '"skipped": "nvcc is not on the PATH"'
  else
    # shellcheck disable=SC2016
    cd "$root" && FASTDC_CUDA=1 timeout -s INT -k 5 "${limit[build]}" "$python" -c \
      'import pathlib, runpy, sys; print(runpy.run_path("setup.py")["build_cuda"](pathlib.Path(sys.argv[1])))' "$layout/fastdc"
  fi
}

run() { # stage
  if [ "$1" = build ]; then
    build
  else
    cd "$layout" && timeout -s INT -k 5 "${limit[$1]}" "$python" -m gpu "$1" "$folder" --until "$(($(date +%s) + limit[$1] - 8))"
  fi
}

# The distance's stages want the compiled kernel, also where they are asked for alone.
if [[ " ${stages[*]} " =~ \ distance(-tests)?\  ]] && [[ ! " ${stages[*]} " =~ \ build\  ]]; then
  stages=(build "${stages[@]}")
fi
failed=0
for stage in "${stages[@]}"; do
  echo "== $stage (at most ${limit[$stage]} s)"
  started=$(date +%s.%N)
  (run "$stage")
  rc=$?
  [ $rc = 0 ] || failed=1
  record "$stage" "\"rc\": $rc, \"seconds\": $(echo "$(date +%s.%N) $started" | awk '{printf "%.1f", $1 - $2}')"
done
(cd "$layout" && timeout -k 5 20 "$python" -m gpu table "$folder")
exit $failed
