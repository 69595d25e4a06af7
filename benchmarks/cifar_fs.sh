#!/usr/bin/env bash
# The figures on real CIFAR-FS that docs/measurements.md quotes: prototype and emd from one backbone on the same 2,000 episodes.
#
#     bash benchmarks/cifar_fs.sh [--weights FILE]      after `fsl prepare cifar_fs`
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
common=(--set eval.episodes=2000 --format csv "$@")
one() { fsl eval --recipe cifar_fs_5w1s_conv64 --run-dir "$out/$1" "${common[@]}" "${@:2}" 2>/dev/null | tail -n 1; }
one "emd1" && one "emd1_pot" --solver pot --set eval.episodes=500 && one "emd1_cv" --solver opencv --set eval.episodes=500
one "proto1" --set head=prototype
one "cosine1" --set head=prototype --set head.distance=cosine
one "proto5" --set head=prototype --set episode.shot=5
one "cosine5" --set head=prototype --set head.distance=cosine --set episode.shot=5
one "emd5" --set episode.shot=5
one "sfc5" --set head=sfc --set episode.shot=5 --set eval.episodes=600
for rival in proto1 cosine1; do echo "emd1 - $rival: $(fsl compare "$out/emd1" "$out/$rival" | head -n 1)"; done
for rival in proto5 cosine5 emd5; do echo "sfc5 - $rival: $(fsl compare "$out/sfc5" "$out/$rival" | head -n 1)"; done
