// This program is linked as the preload library is: its exceptions are unwound by the static libgcc_eh, which asks the
// _dl_find_object of base/older_glibc.cc; pthread_cancel unwinds by the libgcc_s that glibc loads.
#include "base/older_glibc.hh"

#include <gtest/gtest.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <string>

namespace vmsgr::base {

namespace {

// Of this program, of libc, of the loader.
void* const places[] = {reinterpret_cast<void*>(&find_loaded_object), reinterpret_cast<void*>(&::getpid),
                        ::dlsym(RTLD_DEFAULT, "__tls_get_addr")};

struct counted {
    explicit counted(std::atomic<int>& n) : ends(n) {}
    counted(const counted&) = delete;
    counted& operator=(const counted&) = delete;
    ~counted() { ++ends; }
    std::atomic<int>& ends;
};

__attribute__((noinline)) void throw_from(int depth, std::atomic<int>& ends) {
    counted one(ends);
    if (depth == 0) {
        throw std::runtime_error("thrown");
    }
    throw_from(depth - 1, ends);
}

void throw_and_catch() {
    std::atomic<int> ends{0};
    std::string caught;
    try {
        throw_from(3, ends);
    } catch (const std::runtime_error& e) {
        caught = e.what();
    }
    EXPECT_EQ(caught, "thrown");
    EXPECT_EQ(ends, 4);
}

struct waiting {
    std::atomic<bool> begun{false};
    std::atomic<int> ends{0};
};

void* wait_for_cancellation(void* data) {
    auto& w = *static_cast<waiting*>(data);
    counted one(w.ends);
    w.begun = true;
    for (;;) {
        ::usleep(1000000);
    }
    return nullptr;
}

void cancel_a_thread() {
    waiting w;
    pthread_t t{};
    ASSERT_EQ(pthread_create(&t, nullptr, &wait_for_cancellation, &w), 0);
    while (!w.begun) {
        ::usleep(100);
    }
    ASSERT_EQ(pthread_cancel(t), 0);
    void* result = nullptr;
    ASSERT_EQ(pthread_join(t, &result), 0);
    EXPECT_EQ(result, PTHREAD_CANCELED);
    EXPECT_EQ(w.ends, 1);
}

class older_glibc : public testing::TestWithParam<bool> {
protected:
    void SetUp() override { find_objects_by_glibc(GetParam()); }
    void TearDown() override { find_objects_by_glibc(true); }
};

}  // namespace

TEST(older_glibc_walk, finds_what_glibc_finds) {
    auto* theirs = reinterpret_cast<int (*)(void*, dl_find_object*)>(::dlsym(RTLD_DEFAULT, "_dl_find_object"));
    if (theirs == nullptr) {
        GTEST_SKIP() << "this glibc has no _dl_find_object to compare with";
    }
    for (void* place : places) {
        ASSERT_NE(place, nullptr);
        dl_find_object expected{}, found{};
        ASSERT_EQ(theirs(place, &expected), 0);
        ASSERT_EQ(find_loaded_object(place, &found), 0);
        EXPECT_EQ(found.dlfo_eh_frame, expected.dlfo_eh_frame);
        EXPECT_LE(found.dlfo_map_start, place);
        EXPECT_GT(found.dlfo_map_end, place);
    }
}

TEST(older_glibc_walk, finds_nothing_where_no_code_is) {
    int on_the_stack = 0;
    dl_find_object found{};
    EXPECT_EQ(find_loaded_object(&on_the_stack, &found), -1);
    EXPECT_EQ(find_loaded_object(nullptr, &found), -1);
}

// The first that unwinds anything in this program.
TEST_P(older_glibc, cancelled_threads_unwind) { cancel_a_thread(); }

TEST_P(older_glibc, exceptions_unwind) { throw_and_catch(); }

INSTANTIATE_TEST_SUITE_P(both, older_glibc, testing::Bool(),
                         [](const auto& i) { return std::string(i.param ? "asks_glibc" : "walks"); });

}  // namespace vmsgr::base
