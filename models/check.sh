#!/bin/bash
# Checks models/wake.pml with spin: every variant of the right protocol must be accepted, every
# mutant rejected, and for the reason named. One line a check, then "N passed, N failed"; exits 0
# only if none failed. Two checks run at a time (JOBS), each below 1.5 GB; everything is written to
# a temporary directory, which is removed.
set -u
model=$(cd "$(dirname "$0")" && pwd)/wake.pml
for tool in spin gcc; do
  command -v "$tool" >/dev/null ||
    { echo "check.sh: $tool is not installed (tools/setup.sh installs it)"; exit 1; }
done

# expected result | flags; "ok" means accepted by both runs, "ok-safety" by the first alone (for
# large state spaces)
checks='
ok|-DREST
ok|-DEXACT -DREST
ok|-DEXACT -DTSO -DN=3
ok|-DW=2
ok|-DP_EDGE -DREST
ok|-DC_EDGE -DREST
ok|-DP_EDGE -DC_EDGE -DREST
ok|-DP_EDGE -DC_EDGE -DW=2
ok|-DNR=2 -DN=2 -DREST
ok|-DNR=2 -DN=2 -DC_BLOCKING
ok|-DNP=2 -DN=2 -DREST
ok|-DNP=2 -DN=2 -DP_EDGE -DC_EDGE
ok|-DDAEMON -DREST
ok|-DDAEMON -DC_EDGE -DP_EDGE -DREST
ok|-DEND_FIN
ok|-DEND_FIN -DC_EDGE
ok|-DEND_FIN -DDAEMON
ok|-DEND_FIN -DNP=2 -DN=2
ok|-DEND_FIN -DNR=2 -DC_BLOCKING -DN=2
ok|-DKILL_PRODUCER
ok|-DKILL_PRODUCER -DC_EDGE
ok|-DKILL_PRODUCER -DDAEMON
ok|-DKILL_CONSUMER
ok|-DKILL_CONSUMER -DP_EDGE
ok|-DEND_FIN -DKILL_CONSUMER -DKILL_PRODUCER
ok-safety|-DFORK_KILL -DKILL_PRODUCER -DNP=2 -DN=2 -DHARD=5
ok-safety|-DFORK_KILL -DKILL_PRODUCER -DNP=2 -DN=2 -DHARD=5 -DEND_FIN
ok-safety|-DFORK_KILL -DKILL_CONSUMER -DNR=2 -DN=2 -DHARD=5
ok|-DTSO -DREST
ok|-DTSO -DC_EDGE -DP_EDGE
ok|-DTSO -DEND_FIN
ok|-DCRASH_PRODUCER -DN=2 -DREST
ok-safety|-DCRASH_PRODUCER -DCRASHES=2 -DN=2 -DREST
ok-safety|-DCRASH_PRODUCER -DC_EDGE -DP_EDGE -DN=2 -DREST
ok-safety|-DCRASH_PRODUCER -DNR=2 -DC_BLOCKING -DN=2
ok-safety|-DCRASH_PRODUCER -DTSO -DN=2
ok-safety|-DCRASH_PRODUCER -DEND_FIN -DN=2
ok-safety|-DCRASH_PRODUCER -DKILL_CONSUMER -DN=2
ok-safety|-DCRASH_PRODUCER -DC_SPIN -DW=4 -DHARD=6 -DN=2
ok-safety|-DCRASH_PRODUCER -DC_LAZY=1 -DC_EDGE -DW=4 -DN=2 -DREST
ok|-DCRASH_CONSUMER -DDAEMON -DN=2 -DREST
ok-safety|-DCRASH_CONSUMER -DDAEMON -DCRASHES=2 -DN=2 -DREST
ok-safety|-DCRASH_CONSUMER -DDAEMON -DC_EDGE -DP_EDGE -DN=2 -DREST
ok-safety|-DCRASH_CONSUMER -DDAEMON -DEND_FIN -DN=2
ok-safety|-DCRASH_CONSUMER -DDAEMON -DKILL_PRODUCER -DN=2
ok|-DC_SPIN -DW=4 -DHARD=6 -DREST
ok|-DC_SPIN -DC_BLOCKING -DW=4 -DHARD=6 -DP_EDGE
ok|-DC_SPIN -DW=4 -DHARD=6 -DTSO -DREST -DN=2
ok|-DC_SPIN -DW=4 -DHARD=6 -DEND_FIN
ok|-DC_SPIN -DW=4 -DHARD=6 -DKILL_PRODUCER -DN=3
ok|-DC_SPIN -DW=4 -DHARD=6 -DNP=2 -DN=2
ok|-DC_LAZY=1 -DC_EDGE -DW=4 -DREST
ok|-DC_LAZY=1 -DC_EDGE -DP_EDGE -DW=4 -DREST -DTSO -DN=2
ok|-DC_LAZY=1 -DC_EDGE -DP_EDGE -DW=4 -DEND_FIN
ok|-DC_LAZY=1 -DC_EDGE -DW=4 -DKILL_PRODUCER
ok|-DC_LAZY=1 -DC_EDGE -DW=4 -DKILL_CONSUMER
ok|-DC_LAZY=1 -DC_EDGE -DW=4 -DNP=2 -DN=2
invalid end state|-DM_NO_TOKEN -DCRASH_PRODUCER -DN=2
invalid end state|-DM_TOKEN_IF_DATA -DCRASH_PRODUCER -DN=2 -DHARD=5
invalid end state|-DM_TOKEN_IF_ANNOUNCED -DCRASH_PRODUCER -DN=2
invalid end state|-DM_TOKEN_BEFORE_HEAD -DCRASH_PRODUCER -DN=3 -DCRASHES=2
invalid end state|-DM_NO_RETRY -DCRASH_PRODUCER -DN=3
invalid end state|-DM_TRUST_COUNT -DCRASH_PRODUCER -DCRASHES=2 -DN=2
invalid end state|-DM_RETRY_IF_ANNOUNCED -DCRASH_PRODUCER -DN=2 -DC_SPIN -DW=4 -DHARD=6
assertion violated|-DM_OLD_HEAD -DCRASH_PRODUCER -DN=2
assertion violated|-DEXACT -DCRASH_PRODUCER -DN=2
invalid end state|-DM_SLEEP_FIRST -DCRASH_CONSUMER -DDAEMON -DN=2
assertion violated|-DM_TRUST_COUNT -DCRASH_CONSUMER -DDAEMON -DN=2
assertion violated|-DM_OLD_TAIL -DCRASH_CONSUMER -DDAEMON -DN=2
assertion violated|-DM_NO_RELIEF -DCRASH_CONSUMER -DDAEMON -DN=2 -DREST
assertion violated|-DM_NOT_AWAKE -DCRASH_CONSUMER -DDAEMON -DN=2 -DREST
invalid end state|-DM_MARK_IGNORED -DC_SPIN -DW=4 -DHARD=6
assertion violated|-DM_MARK_IGNORED -DC_SPIN -DW=4 -DHARD=6 -DREST
invalid end state|-DM_SPIN_NO_SETTLE -DC_SPIN -DW=4 -DHARD=6
invalid end state|-DM_SPIN_SHORT -DC_SPIN -DW=4 -DHARD=6
invalid end state|-DM_RETRACT_MARK -DC_SPIN -DW=4 -DHARD=6
invalid end state|-DFORK_KILL -DKILL_CONSUMER -DNR=2 -DN=2 -DC_SPIN -DW=4 -DHARD=6
assertion violated|-DC_LAZY=2 -DC_EDGE -DW=4 -DREST
assertion violated|-DM_NO_DECISION -DEXACT
assertion violated|-DM_READS_ON -DEXACT
assertion violated|-DM_DECISION_UNSEEN -DNR=2 -DN=2 -DREST
invalid end state|-DM_DRAIN_ALL
invalid end state|-DM_TAKE_BEFORE_LOOK
invalid end state|-DM_NO_ANNOUNCE
invalid end state|-DM_NO_LOOK_AGAIN
invalid end state|-DM_NO_LOOK_AGAIN -DDAEMON -DC_EDGE
invalid end state|-DM_RETRACT_ALWAYS -DNR=2 -DN=2
invalid end state|-DM_SHORT_RETURN -DC_EDGE
assertion violated|-DM_NO_ALL_BUT_ONE -DREST
assertion violated|-DM_NO_LOOK_IN_TOP_UP -DREST
assertion violated|-DM_NO_RETRACT -DREST -DHARD=6
assertion violated|-DM_LEAVE_ALL -DREST
assertion violated|-DW=2 -DREST
assertion violated|-DM_FIN_AFTER_CLOSE -DEND_FIN
assertion violated|-DM_NO_LOOK_AFTER_HUP -DEND_FIN
assertion violated|-DM_NO_LOOK_AFTER_HUP -DKILL_PRODUCER
non-progress cycle|-DM_NO_TOP_UP
non-progress cycle|-DM_COUNT_AFTER
invalid end state|-DM_NO_SEND_RECOVERY -DFORK_KILL -DKILL_PRODUCER -DNP=2 -DN=2 -DHARD=6
invalid end state|-DM_NO_RECV_RECOVERY -DFORK_KILL -DKILL_CONSUMER -DNR=2 -DN=2 -DHARD=6
invalid end state|-DM_NO_FENCE_PRODUCER -DTSO
assertion violated|-DM_NO_FENCE_CONSUMER -DTSO -DREST -DHARD=6
'

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
export model scratch

# Unoptimised, since compiling costs more than exploring.
# explore <flags of the compiler> -- <flags of pan>: prints what pan found, "ok", or why there is
# no answer
explore() {
  local defines=()
  while [ "$1" != -- ]; do defines+=("$1"); shift; done
  shift
  gcc -O0 -w -DMEMLIM=1500 -DVECTORSZ=512 "${defines[@]}" -o pan pan.c ||
    { echo "does not compile"; return; }
  (ulimit -t 60 && exec timeout 300 ./pan -m4000000 "$@") >out 2>&1   # of processor time: others may want it, too
  if grep -qE 'too small|out of memory|memory limit' out || ! grep -q 'errors:' out; then
    echo "not explored to the end"
  else
    grep -oE -m1 '^pan:[0-9]+: (invalid end state|assertion violated|non-progress cycle)' out |
      sed 's/^pan:[0-9]*: //' | grep . ||
      { grep -q 'errors: 0' out && echo ok; } || echo "another error"
  fi
}

check() {
  local expected=${1%%|*} flags=${1#*|} dir found
  dir=$(mktemp -d "$scratch/XXXXXX") && cd "$dir" || exit 1
  # shellcheck disable=SC2086  # the flags are words
  if ! spin $flags -a "$model" >out 2>&1; then
    found="spin does not accept it"
  else
    found=$(explore -DSAFETY --)
    case $found/$expected in
      ok/ok | ok/non-progress*) found=$(explore -DNP -- -l) ;;
    esac
  fi
  cd / && rm -rf "$dir"
  if [ "$found" = "${expected%-safety}" ]; then echo "pass: wake $flags: $found"
  else echo "FAIL: wake $flags: $found, expected $expected"; fi
}
export -f check explore

# shellcheck disable=SC2016  # the inner shell expands it
printf '%s' "$checks" | grep . |
  xargs -P "${JOBS:-2}" -d '\n' -n 1 bash -c 'check "$1"' check | tee "$scratch/results"
passed=$(grep -c '^pass' "$scratch/results")
failed=$(($(printf '%s' "$checks" | grep -c .) - passed))
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
