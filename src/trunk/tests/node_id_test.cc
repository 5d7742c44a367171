#include "trunk/node_id.hh"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace vmsgr::trunk {
namespace {

struct node_ids : ::testing::Test {
    std::string dir, path;
    node_ids() {
        char text[] = "/tmp/vmsgr-node-XXXXXX";
        dir = ::mkdtemp(text);
        path = dir + "/vmsgrd.sock.node";
    }
    ~node_ids() override { std::filesystem::remove_all(dir); }
};

TEST_F(node_ids, the_number_is_made_once_and_kept) {
    auto first = load_node_id(path);
    EXPECT_NE(first.id, 0u);
    EXPECT_EQ(first.not_kept, "");
    EXPECT_EQ(load_node_id(path).id, first.id);
    struct stat st{};
    ASSERT_EQ(::stat(path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0600u);
    EXPECT_NE(load_node_id(dir + "/other").id, first.id);
}

TEST_F(node_ids, a_file_without_a_number_is_replaced) {
    for (const char* text : {"", "0000000000000000\n", "123\n", "zzzzzzzzzzzzzzzz\n", "0123456789abcdef",
                             "0123456789abcdef\nmore"}) {
        std::ofstream(path, std::ios::trunc) << text;
        auto made = load_node_id(path);
        EXPECT_NE(made.id, 0u) << text;
        EXPECT_EQ(made.not_kept, "") << text;
        EXPECT_EQ(load_node_id(path).id, made.id) << text;
    }
}

TEST_F(node_ids, a_link_is_not_followed) {
    std::ofstream(dir + "/target") << "0123456789abcdef\n";
    ASSERT_EQ(::symlink((dir + "/target").c_str(), path.c_str()), 0);
    EXPECT_NE(load_node_id(path).id, 0x0123456789abcdefu);
    EXPECT_FALSE(std::filesystem::is_symlink(path));
}

TEST_F(node_ids, where_it_cannot_be_kept_there_is_one_for_this_run) {
    auto made = load_node_id(dir + "/missing/node");
    EXPECT_NE(made.id, 0u);
    EXPECT_NE(made.not_kept.find("missing"), std::string::npos);
    EXPECT_NE(load_node_id(dir + "/missing/node").id, made.id);
}

}  // namespace
}  // namespace vmsgr::trunk
