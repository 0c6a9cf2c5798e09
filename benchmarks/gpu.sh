#!/usr/bin/env bash
# What wants a GPU, in one command without a network: tests and benchmarks, then as much as the time allows of the
# studies, the release's training, and nnU-Net as their peer.
#
#   benchmarks/gpu.sh LUMBAR_T1 OUT [SECONDS]        SECONDS: of all together, 540 by default
#
# LUMBAR_T1: folder of the data (datalist.json, slices/). OUT: results; given again, or carried to another machine, all
# goes on from what is in it, also from archives of results (docs/results/table1) that are unpacked into OUT/runs.
# A folder WHEELS beside the call (pip download; docs/how-to/offline-machines.md) is installed first. Encoders:
# `cps4 weights vit-s-focus` where there is a network; CPS4_CACHE_DIR names their folder here.
# SPIDER=FOLDER (splits.json, volumes/, slices/) also measures the wait for data, and is needed for the release and for
# studies of SPIDER (spider_pretrained, ablation_spider_pretrained).
# PARTS="benchmarks studies release nnunet" leaves out what it does not name; their order is this one.
# STUDIES="table1 ablation_lumbar_t1" names other studies than lumbar_t1_paper_size, lumbar_t1, table1, ablation_lumbar_t1
# and, with SPIDER, spider_pretrained and ablation_spider_pretrained, in their order.
# JOBS: trainings at a time.
# nnU-Net v2 (2.8) is taken from the PATH, or from wheels in WHEELS_NNUNET, which nothing else sees. NNUNET="5 100 spider"
# names the sets: lumbar_t1's labeled shares, SPIDER's train. NNUNET_EPOCHS: 1000, its own; SECTIONS="validation test".
# REHEARSE=1 does the same on a CPU with the study `quick` on its phantom, a dry run of the others, and everything else at
# the smallest sizes in OUT/rehearsal, to see that it is there: no test subject, no figure that means anything.
set -euo pipefail
data=$1 limit=${3:-540} start=$SECONDS
python=${PYTHON:-python3}
rehearse=${REHEARSE:-}
out=$2
if [ -n "$rehearse" ]; then out=$2/rehearsal; fi # its steps are not those of the run
out=$(mkdir -p "$out" && cd "$out" && pwd)
left() { echo $((limit - SECONDS + start)); }
want() { [[ " ${PARTS:-benchmarks studies release nnunet} " == *" $1 "* ]]; }
step() { # step NAME SECONDS COMMAND...: its output in OUT/NAME.txt; one that is done is passed over
    local name=$1 most=$2
    shift 2
    [ -f "$out/$name.done" ] && { echo "$name: done before"; return; }
    if [ "$most" -gt "$(left)" ]; then most=$(left); fi
    if [ "$most" -le 5 ]; then echo "$name: no time left"; return; fi
    if timeout "$most" "$@" > "$out/$name.txt" 2>&1; then touch "$out/$name.done"; echo "$name: done"
    else echo "$name: exit $?; see $out/$name.txt"; tail -n 5 "$out/$name.txt"; fi
}
measure() { # measure NAME SECONDS TARGET COMMAND...: a step whose last lines are told beside what is wanted of them
    local name=$1 most=$2 target=$3
    shift 3
    step "$name" "$most" "$@"
    if [ -f "$out/$name.done" ]; then echo "$name: wanted: $target"; tail -n 8 "$out/$name.txt" | sed 's/^/    /'; fi
}
long() { # long NAME COMMAND...: a step for as long as is left, which the same call goes on with; false until it is done
    local name=$1
    shift
    if [ ! -f "$out/$name.done" ] && [ "$(left)" -le 20 ]; then echo "$name: no time left"; return 1; fi
    step "$name" "$(left)" "$@"
    [ -f "$out/$name.done" ]
}

install_wheels() { # install_wheels FOLDER SITE: its wheels into SITE, once; anew where they have other names or sizes
    local stamp=$2/wheels.txt
    wc -c "$1"/*.whl | cmp -s - "$stamp" && return
    rm -rf "$2" && mkdir -p "$2" &&
        "$python" -m pip install -q --no-index --no-deps --target "$2" "$1"/*.whl && wc -c "$1"/*.whl > "$stamp"
}
if [ -d WHEELS ]; then
    install_wheels WHEELS "${TMPDIR:-/tmp}/gpu_site"
    export PYTHONPATH="${TMPDIR:-/tmp}/gpu_site:${PYTHONPATH:-}"
fi
export PYTHONPATH="$PWD:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
cps4=("$python" -m cps4_monai.cli)
device=cuda:0
if [ -n "$rehearse" ]; then device=cpu; fi

benchmarks() {
    local kind=(--device "${device%:*}" --amp --size 512 256) once=() few=() vit=() map=() methods=(--steps 30 --strict)
    local scans=(--scans 8) wait=(--size 512 256 --spacing-mm 0.6 --step-seconds 0.045 --workers 2 4 8) # an H100's 0.048 s
    if [ -n "$rehearse" ]; then
        kind=(--device cpu --size 64 32) once=(--steps 1) few=(--steps 1 --warm-up 1 --features 4 8) methods=("${few[@]}")
        vit=(--vit vit_tiny_patch16_224) map=(--repeats 1) scans=(--slices 2)
        wait=(--size 64 32 --spacing-mm 6 --step-seconds 0.01 --steps 2 --workers 0)
    fi
    local tests=("$python" -m pytest -q -p no:cacheprovider) # each method, both stages: two pieces of some 23 trainings
    step tests 120 "${tests[@]}" -k "not both_stages" tests/test_gpu.py tests/prompt_map/test_mapper.py
    measure bench_prompt_map 60 "500 times as fast as the loop over classes" "$python" benchmarks/prompt_map.py "${map[@]}"
    measure bench_stage2 60 "CPS4 over Mean Teacher at most 1.05" \
        "$python" benchmarks/stage2_step.py "${kind[@]}" --steps 50 --warm-up 10 "${few[@]}" "${vit[@]}"
    measure bench_stage2_batch8 60 "at most 24 GB" \
        "$python" benchmarks/stage2_step.py "${kind[@]}" --steps 40 --warm-up 10 --batch 8 8 "${few[@]}" "${vit[@]}"
    measure bench_stage1 60 "no target" "$python" benchmarks/stage1_step.py "${kind[@]}" --steps 20 "${once[@]}" "${vit[@]}"
    measure bench_methods 120 "no wait for the device" "$python" benchmarks/method_steps.py "${kind[@]}" "${methods[@]}"
    measure bench_scan 60 "a scan of a batch in 1 s" \
        "$python" benchmarks/segment.py --weights bundle --device "$device" "${scans[@]}"
    if [ -z "${SPIDER:-}" ]; then echo "bench_data_wait: SPIDER=FOLDER is missing, its data"; else
        measure bench_data_wait 60 "at most 2 % of the time waiting" \
            "$python" benchmarks/data_wait.py --dataset-dir "$SPIDER" "${wait[@]}"
    fi
    step tests_methods 300 "${tests[@]}" -n 6 -k "both_stages and False" tests/test_gpu.py
    step tests_methods_amp 300 "${tests[@]}" -n 6 -k "both_stages and True" tests/test_gpu.py
}

share_the_card() { # small networks share the card much better through this daemon
    command -v nvidia-cuda-mps-control > /dev/null || return 0
    export CUDA_MPS_PIPE_DIRECTORY="${TMPDIR:-/tmp}/mps" CUDA_MPS_LOG_DIRECTORY="${TMPDIR:-/tmp}/mps_log"
    mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
    nvidia-cuda-mps-control -d || true
    trap 'echo quit | nvidia-cuda-mps-control > /dev/null' EXIT
}

studies() {
    local study list how=(--jobs "${JOBS:-12}") told=(cat) all="lumbar_t1_paper_size lumbar_t1 table1 ablation_lumbar_t1"
    if [ -n "${SPIDER:-}" ]; then all+=" spider_pretrained ablation_spider_pretrained"; fi
    if [ -n "$rehearse" ]; then
        long quick "${cps4[@]}" bench run studies/quick.yaml -o "$out/runs" --device cpu
        how=(--dry-run) told=(tail -n 2)
    else share_the_card; fi
    for study in ${STUDIES:-$all}; do
        list=$data/datalist.json
        if [[ $study == *spider* ]]; then list=${SPIDER:-}/splits.json; fi
        if [ ! -f "$list" ]; then echo "$study: no $list, its data (LUMBAR_T1; SPIDER=FOLDER)"; continue; fi
        if [ "$(left)" -le 20 ]; then echo "$study: no time left"; continue; fi
        timeout "$(left)" "${cps4[@]}" bench run "studies/$study.yaml" -o "$out/runs" --datalist "$list" --device "$device" \
            "${how[@]}" | "${told[@]}" || echo "$study: exit $?; the same command goes on"
    done
}

release() { # the commands of docs/results/segment.md, and the second step once more with class prompts; on validation
    if [ -z "${SPIDER:-}" ]; then echo "release: SPIDER=FOLDER is missing, its data"; return; fi
    local runs=$out/release name=release_r2_prompts
    local both=(--datalist "$runs/data/datalist.json" --device "$device" --overlay release --overlay any_contrast)
    local check=("$python" benchmarks/contrast_check.py --datalist "$SPIDER/splits.json" "$data/datalist.json")
    local mild=(--set finetune_from="$runs/r1/stage2/model.pt" --set max_epochs=14 --set val_interval=7 --set learning_rate=0.001
        --set geometry#rotate_deg=15 --set geometry#scale=0.2 --set 'geometry#translate_pixels=[30,16]' --set geometry#cut_prob=0.15
        --set intensity#tissue_prob=0.3 --set intensity#curve_prob=0.25 --set intensity#invert_prob=0.12 --set intensity#low_resolution_prob=0.25)
    local prompts=(--overlay cps4 --overlay pretrained "${both[@]}" --overlay benchmarks/release_prompts.json "${mild[@]}")
    if [ -n "$rehearse" ]; then
        local tiny=(--set 'features=[4,8,8]' --set max_epochs=1 --set iterations_per_epoch=1 --set val_interval=1)
        both+=("${tiny[@]}") mild+=("${tiny[@]}") check+=(--limit 1)
        prompts+=("${tiny[@]}" --set stage1#max_epochs=1 --set stage1#iterations_per_epoch=1 --set stage1#image_encoder#depth=1)
    fi
    long release_data "$python" benchmarks/release_datalist.py "$SPIDER" "$data" "$runs/data" &&
        long release_r1 "${cps4[@]}" train stage2 -o "$runs/r1" --overlay supervised "${both[@]}" &&
        long release_r2 "${cps4[@]}" train stage2 -o "$runs/r2" --overlay supervised "${both[@]}" "${mild[@]}" &&
        long release_r2_check "${check[@]}" --weights "$runs/r2/stage2/model.pt" -o "$runs/r2.csv" &&
        long "${name}_stage1" "${cps4[@]}" train stage1 -o "$runs/r2_prompts" "${prompts[@]}" &&
        long "${name}_stage2" "${cps4[@]}" train stage2 -o "$runs/r2_prompts" "${prompts[@]}" &&
        long "${name}_check" "${check[@]}" --weights "$runs/r2_prompts/stage2/model.pt" -o "$runs/r2_prompts.csv"
}

peer() { # peer ID NAME FOLDER DATALIST SHARE: nnU-Net's 2-D configuration, scored as every row of the tables
    local id=$1 name=$2 folder=$3 list=$3/$4 share=$5 section way
    local set=$nnUNet_raw/Dataset$1_$2 trainer=${NNUNET_TRAINER:-nnUNetTrainerInPieces} mine=$out/nnunet/$2
    local sections write=() workers=() kind=cuda
    read -ra sections <<< "${SECTIONS:-validation test}"
    if [ -n "$rehearse" ]; then sections=(validation) write=(--limit 3) workers=(-npfp 1 -np 1) kind=cpu; fi
    long "nnunet_${name}_data" "$python" benchmarks/nnunet_dataset.py write "$list" "$nnUNet_raw" --id "$id" --name "$name" \
        --share "$share" --seed 0 --sections "${sections[@]}" "${write[@]}" &&
        long "nnunet_${name}_plan" "${nnunet[@]}" nnUNetv2_plan_and_preprocess -d "$id" -c 2d --verify_dataset_integrity \
            --no_pbar "${workers[@]}" &&
        long "nnunet_${name}_train" "${nnunet[@]}" nnUNetv2_train "$id" 2d 0 -tr "$trainer" --c -device "$kind" || return 1
    for section in "${sections[@]}"; do
        long "nnunet_${name}_${section}_predict" "${nnunet[@]}" nnUNetv2_predict -i "$set/images_$section" \
            -o "$mine/$section/predicted" -d "$id" -c 2d -f 0 -tr "$trainer" --save_probabilities -device "$kind" &&
            long "nnunet_${name}_${section}_back" "$python" benchmarks/nnunet_dataset.py back "$list" "$set" \
                "$mine/$section/predicted" "$mine/$section" || return 1
        for way in argmax decoded; do
            long "nnunet_${name}_${section}_$way" "${cps4[@]}" report -p "$mine/$section/$way" -l "$list" --dataset-dir "$folder" \
                --section "$section" -o "$mine/$section/report_$way" --max-pictures 0 || return 1
        done
    done
}

nnunet() {
    local site=${TMPDIR:-/tmp}/gpu_nnunet share
    local nnunet=(env)
    if [ -d WHEELS_NNUNET ]; then
        install_wheels WHEELS_NNUNET "$site" || return
        nnunet=(env PYTHONPATH="$site:$PYTHONPATH" PATH="$site/bin:$PATH")
    elif ! command -v nnUNetv2_train > /dev/null; then
        echo "nnunet: nnUNetv2_train is not on the PATH, and there is no folder WHEELS_NNUNET (docs/how-to/offline-machines.md)"
        return
    fi
    export nnUNet_raw=$out/nnunet/raw nnUNet_preprocessed=$out/nnunet/preprocessed nnUNet_results=$out/nnunet/results
    export nnUNet_extTrainer=$PWD/benchmarks/nnunet_trainer OMP_NUM_THREADS=1
    mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
    if [ -n "$rehearse" ]; then
        export NNUNET_EPOCHS=1 NNUNET_ITERATIONS=1 nnUNet_n_proc_DA=1 nnUNet_def_n_proc=1 nnUNet_compile=f
    fi
    for share in ${NNUNET:-5 100 spider}; do
        if [ "$share" != spider ]; then peer "$((500 + share))" "lumbar_t1_$share" "$data" datalist.json "$share" || true
        elif [ -n "${SPIDER:-}" ]; then peer 701 spider "$SPIDER" splits.json 100 || true
        else echo "nnunet: SPIDER=FOLDER is missing for SPIDER's train"; fi
    done
}

for part in benchmarks studies release nnunet; do
    if want "$part"; then "$part" || echo "$part: the same command goes on"; fi
done
# What a report and a later start need of finished jobs: small enough to carry home.
if compgen -G "$out/runs/*.study.json" > /dev/null; then
    "${cps4[@]}" bench archive "$out/runs" -o "$out/runs.tar.xz"
fi
echo "$((SECONDS - start)) s; results in $out"
