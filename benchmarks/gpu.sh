#!/usr/bin/env bash
# What wants a GPU, in one command without a network: tests, benchmarks, then as much of the studies as the time allows.
#
#   benchmarks/gpu.sh LUMBAR_T1 OUT [SECONDS]        SECONDS: of all together, 540 by default
#
# LUMBAR_T1: folder of the data (datalist.json, slices/). OUT: results; given again, or carried to another machine, the
# studies go on from what is in it. A folder WHEELS beside the call (pip download; docs/how-to/offline-machines.md) is
# installed first. Encoders: `cps4 weights vit-s-focus` where there is a network; CPS4_CACHE_DIR names their folder here.
# SPIDER=FOLDER (volumes/) also measures the wait for data. STUDIES="table1 ablation_lumbar_t1" names other studies of the
# same data; lumbar_t1_paper_size has the paper's sizes. JOBS: trainings at a time.
# REHEARSE=1 does the same on a CPU with the study `quick` on its phantom, to see that everything is there.
set -euo pipefail
data=$1 out=$2 limit=${3:-540} start=$SECONDS
python=${PYTHON:-python3}
mkdir -p "$out"
left() { echo $((limit - SECONDS + start)); }
step() { # step NAME SECONDS COMMAND...: its output in OUT/NAME.txt; one that is done is passed over
    local name=$1 most=$2
    shift 2
    [ -f "$out/$name.done" ] && { echo "$name: done before"; return; }
    if timeout "$most" "$@" > "$out/$name.txt" 2>&1; then touch "$out/$name.done"; echo "$name: done"
    else echo "$name: exit $?; see $out/$name.txt"; tail -n 5 "$out/$name.txt"; fi
}

if [ -d WHEELS ]; then
    "$python" -m pip install -q --no-index --no-deps --target "${TMPDIR:-/tmp}/gpu_site" WHEELS/*.whl
    export PYTHONPATH="${TMPDIR:-/tmp}/gpu_site:${PYTHONPATH:-}"
fi
export PYTHONPATH="$PWD:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
if [ -n "${REHEARSE:-}" ]; then
    step bench_prompt_map 120 "$python" benchmarks/prompt_map.py --repeats 1
    step bench_scan 120 "$python" benchmarks/segment.py --weights bundle --slices 2
    step bench_stage2 300 "$python" benchmarks/stage2_step.py --device cpu --size 64 32 --features 4 8 --vit vit_tiny_patch16_224 --steps 1 --warm-up 1
    timeout "$(left)" "$python" -m cps4_monai.cli bench run studies/quick.yaml -o "$out/runs" --device cpu || echo "studies: exit $?"
else
    step tests 120 "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py tests/prompt_map/test_mapper.py
    step bench_prompt_map 60 "$python" benchmarks/prompt_map.py
    step bench_stage2 60 "$python" benchmarks/stage2_step.py --device cuda --amp --steps 50 --warm-up 10
    step bench_stage2_batch8 60 "$python" benchmarks/stage2_step.py --device cuda --amp --steps 40 --warm-up 10 --batch 8 8
    step bench_stage1 60 "$python" benchmarks/stage1_step.py --amp --steps 20
    step bench_methods 120 "$python" benchmarks/method_steps.py --device cuda --amp --steps 30 --strict
    step bench_scan 60 "$python" benchmarks/segment.py --weights bundle --device cuda:0 --scans 8
    if [ -n "${SPIDER:-}" ]; then
        step bench_data_wait 60 "$python" benchmarks/data_wait.py --dataset-dir "$SPIDER" --size 512 256 --spacing-mm 0.6 \
            --step-seconds 0.09 --workers 2 4 8
    fi
    if command -v nvidia-cuda-mps-control > /dev/null; then # small networks share the card much better through it
        export CUDA_MPS_PIPE_DIRECTORY="${TMPDIR:-/tmp}/mps" CUDA_MPS_LOG_DIRECTORY="${TMPDIR:-/tmp}/mps_log"
        mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
        nvidia-cuda-mps-control -d || true
        trap 'echo quit | nvidia-cuda-mps-control > /dev/null' EXIT
    fi
    for study in ${STUDIES:-lumbar_t1 table1}; do
        if [ "$(left)" -le 60 ]; then continue; fi
        timeout "$(left)" "$python" -m cps4_monai.cli bench run "studies/$study.yaml" -o "$out/runs" \
            --datalist "$data/datalist.json" --device cuda:0 --jobs "${JOBS:-12}" || echo "$study: exit $?; the same command goes on"
    done
fi
# What a report needs, without weights and label maps: small enough to carry home.
if [ -d "$out/runs" ]; then
    tar czf "$out/runs.tgz" -C "$out" --exclude='*.pt' --exclude=predictions --exclude=cache --exclude='events*' runs
fi
echo "$((SECONDS - start)) s; results in $out"
