// Runs a fuzz target without libFuzzer: seeded random inputs for a bounded time, or the files that are named. It prints
// the seed; VMSGR_FUZZ_SEED repeats a run, VMSGR_FUZZ_MS makes it longer.
#include <stdio.h>
#include <stdlib.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

uint64_t number(const char* name, uint64_t otherwise) {
    const char* text = getenv(name);
    return text != nullptr ? strtoull(text, nullptr, 0) : otherwise;
}

int run_files(int count, char** names) {
    for (int i = 0; i < count; ++i) {
        std::ifstream file(names[i], std::ios::binary);
        if (!file) {
            fprintf(stderr, "%s: not to be read\n", names[i]);
            return 1;
        }
        const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
        LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1) {
        return run_files(argc - 1, argv + 1);
    }
    constexpr size_t longest = 256;
    const uint64_t seed = number("VMSGR_FUZZ_SEED", std::random_device()());
    printf("VMSGR_FUZZ_SEED=%llu\n", static_cast<unsigned long long>(seed));
    fflush(stdout);  // a failure ends by a signal
    std::mt19937_64 random(seed);
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(number("VMSGR_FUZZ_MS", 1000));
    uint64_t runs = 0;
    do {
        std::vector<uint8_t> bytes(random() % (longest + 1));
        for (auto& b : bytes) {
            b = uint8_t(random());
        }
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
        ++runs;
    } while (std::chrono::steady_clock::now() < until);
    printf("%llu inputs\n", static_cast<unsigned long long>(runs));
    return 0;
}
