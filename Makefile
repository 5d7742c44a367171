# Every target works on a fresh Debian 12 or 13: set-up is included and skipped once done.
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)

.PHONY: all build build-programs setup-build setup-demo setup-suites setup-deb setup-site setup demo deb site check test test-suites test-cuts \
        test-kills test-older test-packages fuzz soak bench clean
all: build

setup-build:
	@tools/setup.sh build
setup-demo:
	@tools/setup.sh demo
setup-suites:
	@tools/setup.sh suites
setup-deb:
	@tools/setup.sh deb
setup-site:
	@tools/setup.sh site
setup:
	@tools/setup.sh all

build: setup-build
	@test -f $(BUILD)/build.ninja || cmake --preset $(PRESET) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

# What is installed, and nothing else: without tests and benches.
build-programs: setup-build
	@test -f $(BUILD)/build.ninja || cmake --preset $(PRESET) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS) --target programs

demo: setup-demo build-programs
	@tools/demo

# Debian packages, in build/packages; docs/OPERATION.md says what to do with them.
deb: setup-deb
	@tools/make-deb $(JOBS)

# The documents as a site, in build/site.
site: setup-site
	@tools/make-site

check: setup build
	@tools/run-tests fast

test: setup build
	@tools/run-tests all

# CPython's own tests, routed; writes the table in docs/COMPATIBILITY.md. A quarter of an hour.
test-suites: setup-suites build
	@tests/suites/cpython.py --table

# The libraries in a fresh root of Debian 12, which it makes with debootstrap, as root and with a network: a minute.
test-older: setup build
	@/usr/bin/python3 -m pytest -q -rs tests/older

# The packages on machines with a fresh Debian 13 and its systemd: their units, and on three of them a Ceph cluster under load:
# in, OSDs over, seen, upgraded and back, out. As root, with a network; ten minutes, longer the first time.
test-packages: setup deb
	@/usr/bin/python3 -m pytest -q -rs -x -s tests/packages

# The long versions of what tests/trunk and tests/cluster do in seconds: a quarter of an hour.
test-cuts: setup build
	@VMSGR_CUT_SECONDS=$${VMSGR_CUT_SECONDS:-600} /usr/bin/python3 -m pytest -q -s tests/trunk/test_all_cuts.py
	@VMSGR_CLUSTER_CUT_ROUNDS=$${VMSGR_CLUSTER_CUT_ROUNDS:-3} /usr/bin/python3 -m pytest -q -s tests/cluster/test_cut_links.py

# What make test does for a minute: programs that do not notice that their worker is killed once a second.
test-kills: setup build
	@VMSGR_KILL_SECONDS=$${VMSGR_KILL_SECONDS:-600} /usr/bin/python3 -m pytest -q -s tests/component/test_custody_programs.py

# Each fuzz target for a minute or ten million inputs, with libFuzzer. Needs clang-19 and libclang-rt-19-dev. What it finds
# new goes to build/fuzz/corpus, an input that fails to build/fuzz/finding-NAME-...
fuzz: setup-build
	@cmake --preset fuzz >/dev/null
	@cmake --build --preset fuzz -j $(JOBS)
	@for target in build/fuzz/bin/fuzz_*; do name=$${target##*/fuzz_}; mkdir -p build/fuzz/corpus/$$name; \
	  echo "== $$name"; $$target -runs=$${VMSGR_FUZZ_RUNS:-10000000} -max_total_time=$${VMSGR_FUZZ_SECONDS:-60} \
	  -timeout=10 -print_final_stats=1 -verbosity=0 -artifact_prefix=build/fuzz/finding-$$name- \
	  build/fuzz/corpus/$$name src/*/tests/corpus/$$name || exit 1; done

# An hour of mixed load with hostile clients, kills and reloads, after which the daemon holds what it held before.
soak: setup build
	@VMSGR_SOAK_SECONDS=$${VMSGR_SOAK_SECONDS:-3600} /usr/bin/python3 -m pytest -q -s tests/hostile/test_soak.py

bench: setup build
	@bench/bench.py

clean:
	rm -rf build
