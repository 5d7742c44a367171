// Whose event is it? Answered from the data alone, or not at all.
#include "preload/registrations.hh"

#include <gtest/gtest.h>

#include <memory>

namespace vmsgr::preload {
namespace {

struct registrations_of_a_set : testing::Test {
    std::unique_ptr<registrations> told = std::make_unique<registrations>();

    void add(int fd, uint64_t data, uint32_t events = EPOLLIN) {
        epoll_event e{.events = events, .data = {.u64 = data}};
        if (!told->note_same(EPOLL_CTL_ADD, fd, &e)) {
            ASSERT_TRUE(told->note(fd, e));
        }
    }
};

TEST_F(registrations_of_a_set, know_whose_data_it_is) {
    EXPECT_EQ(told->owner_of(7), -1);
    EXPECT_EQ(told->find(7), nullptr);
    add(7, 7);
    add(0, 0xdead'beef'0000);
    EXPECT_EQ(told->owner_of(7), 7);
    EXPECT_EQ(told->owner_of(0xdead'beef'0000), 0);
    EXPECT_EQ(told->find(7)->events.load() & EPOLLIN, EPOLLIN);
}

TEST_F(registrations_of_a_set, do_not_guess_where_two_have_the_same_data) {
    add(7, 1);
    add(8, 1);
    EXPECT_EQ(told->owner_of(1), -1);
    told->forget(7);
    EXPECT_EQ(told->owner_of(1), 8);
}

TEST_F(registrations_of_a_set, follow_data_that_changes) {
    add(7, 1);
    add(7, 2);
    EXPECT_EQ(told->owner_of(1), -1);
    EXPECT_EQ(told->owner_of(2), 7);
}

TEST_F(registrations_of_a_set, count_each_change_as_a_new_edge) {
    add(7, 1);
    const uint32_t before = told->find(7)->version.load();
    add(7, 1, EPOLLIN | EPOLLET);
    EXPECT_NE(told->find(7)->version.load(), before);
    EXPECT_TRUE(told->note_same(EPOLL_CTL_DEL, 7, nullptr));
    EXPECT_EQ(told->find(7)->events.load() & registrations::registered, 0u);
    EXPECT_TRUE(told->note_same(EPOLL_CTL_DEL, 7000, nullptr));  // never heard of
}

TEST_F(registrations_of_a_set, know_most_of_very_many_and_none_wrongly) {
    constexpr int many = 20000;
    for (int fd = 0; fd < many; ++fd) {
        add(fd, 0x7f00'0000'0000 + uint64_t(fd) * 432);
    }
    int known_ones = 0;
    for (int fd = 0; fd < many; ++fd) {
        const int owner = told->owner_of(0x7f00'0000'0000 + uint64_t(fd) * 432);
        EXPECT_TRUE(owner == fd || owner == -1);
        known_ones += owner == fd;
    }
    EXPECT_GT(known_ones, many * 8 / 10);
    told->clear();
    EXPECT_EQ(told->owner_of(0x7f00'0000'0000), -1);
}

}  // namespace
}  // namespace vmsgr::preload
