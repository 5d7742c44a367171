# Every target works on a fresh Debian 12 or 13: set-up is included and skipped once done.
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)

.PHONY: all build setup-build setup demo check test bench clean
all: build

setup-build:
	@tools/setup.sh build
setup:
	@tools/setup.sh all

build: setup-build
	@test -f $(BUILD)/build.ninja || cmake --preset $(PRESET) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

demo: setup build
	@tools/demo

check: setup build
	@tools/run-tests fast

test: setup build
	@tools/run-tests all

bench: setup build
	@bench/bench.py

clean:
	rm -rf build
