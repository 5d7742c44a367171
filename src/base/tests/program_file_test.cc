#include "base/program_file.hh"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "base/unique_fd.hh"

namespace vmsgr::base {
namespace {

struct folder {
    std::string path = "/tmp/vmsgr-program-XXXXXX";
    folder() { EXPECT_NE(::mkdtemp(path.data()), nullptr); }
    ~folder() { EXPECT_EQ(::system(("rm -r " + path).c_str()), 0); }
    std::string file(const std::string& name, const std::string& text, mode_t mode) const {
        std::ofstream(path + "/" + name, std::ios::binary) << text;
        EXPECT_EQ(::chmod((path + "/" + name).c_str(), mode), 0);
        return path + "/" + name;
    }
};

struct path_variable {
    std::string before = ::getenv("PATH");
    explicit path_variable(const std::string& value) { ::setenv("PATH", value.c_str(), 1); }
    ~path_variable() { ::setenv("PATH", before.c_str(), 1); }
};

std::string found(const char* name, int expected = 0) {
    char path[program_path_max] = {};
    EXPECT_EQ(find_program(name, path), expected) << name;
    return expected == 0 ? path : "";
}

TEST(program_file, the_path_is_walked_as_execvp_does) {
    folder first, second;
    ASSERT_EQ(::mkdir((first.path + "/tool").c_str(), 0755), 0);  // a folder of that name is no program
    first.file("shut", "", 0644);
    const auto tool = second.file("tool", "", 0755);
    path_variable set(first.path + ":" + second.path);
    EXPECT_EQ(found("tool"), tool);
    EXPECT_EQ(found(tool.c_str()), tool);
    found("shut", EACCES);
    found("no-such-tool", ENOENT);
    found("", ENOENT);
    found(first.path.c_str(), EACCES);
    found((second.path + "/tool/x").c_str(), ENOENT);
    found(std::string(program_path_max, 'x').c_str(), ENAMETOOLONG);
}

TEST(program_file, an_empty_folder_of_the_path_is_this_one) {
    folder here;
    here.file("tool", "", 0755);
    char before[program_path_max];
    ASSERT_NE(::getcwd(before, sizeof before), nullptr);
    ASSERT_EQ(::chdir(here.path.c_str()), 0);
    for (const char* value : {":/none", "/none:", "/none::/none"}) {
        path_variable set(value);
        EXPECT_EQ(found("tool"), "tool") << value;
    }
    ASSERT_EQ(::chdir(before), 0);
}

TEST(program_file, first_lines_of_scripts_are_taken_apart) {
    folder here;
    struct {
        const char* text;
        const char* interpreter;
        const char* argument;
    } lines[] = {{"#!/bin/sh\n", "/bin/sh", nullptr},
                 {"#!  /bin/sh  -e x \n", "/bin/sh", "-e x"},
                 {"#!/bin/sh", "/bin/sh", nullptr},
                 {"#!\n/bin/sh", nullptr, nullptr},
                 {"#! \t \n", nullptr, nullptr},
                 {"", nullptr, nullptr},
                 {"#", nullptr, nullptr},
                 {"/bin/sh", nullptr, nullptr}};
    for (const auto& l : lines) {
        const unique_fd file(::open(here.file("script", l.text, 0755).c_str(), O_RDONLY | O_CLOEXEC));
        script_line line;
        read_script_line(file.get(), line);
        EXPECT_STREQ(line.interpreter, l.interpreter) << l.text;
        EXPECT_STREQ(line.argument, l.argument) << l.text;
    }
}

TEST(program_file, what_keeps_the_library_out_is_named) {
    folder here;
    EXPECT_EQ(look_at_program("/proc/self/exe").obstacle, preload_obstacle::none);
    EXPECT_EQ(look_at_program("/no/such").obstacle, preload_obstacle::unreadable);
    const auto loop = here.file("loop", "#!" + here.path + "/loop\n", 0755);
    EXPECT_TRUE(look_at_program(loop.c_str()).is_script);
    // A header that ends, or lies, is no reason to read anything else.
    const std::string elf = std::string("\x7f"
                                        "ELF\2\1\1",
                                        7) +
                            std::string(9, '\0') + std::string("\3\0\x3e\0", 4);
    EXPECT_EQ(look_at_program(here.file("cut", elf, 0755).c_str()).obstacle, preload_obstacle::none);  // exec fails
    const auto lies = here.file("lies", elf + std::string(44, '\xff'), 0755);
    EXPECT_EQ(look_at_program(lies.c_str()).obstacle, preload_obstacle::linked_statically);
    std::string big = elf + std::string(44, '\0');
    big[5] = 2;
    EXPECT_EQ(look_at_program(here.file("big-endian", big, 0755).c_str()).obstacle, preload_obstacle::other_machine);
}

TEST(program_file, rights_that_the_user_has_not_keep_it_out) {
    if (::getuid() != 0) {
        GTEST_SKIP() << "needs root, who may give files away";
    }
    folder here;
    const auto file = here.path + "/tool";
    ASSERT_EQ(::system(("cp /bin/true " + file).c_str()), 0);
    constexpr uid_t nobody = 65534;
    ASSERT_EQ(::chown(file.c_str(), nobody, nobody), 0);
    for (auto [mode, expected] : {std::pair{0755u, preload_obstacle::none},
                                  {04755u, preload_obstacle::setuid},
                                  {02755u, preload_obstacle::setgid},
                                  {02745u, preload_obstacle::none}}) {
        ASSERT_EQ(::chmod(file.c_str(), mode), 0);
        EXPECT_EQ(look_at_program(file.c_str()).obstacle, expected) << std::oct << mode;
    }
    ASSERT_EQ(::seteuid(nobody), 0);  // whatever it starts runs with two users
    EXPECT_EQ(look_at_program("/bin/true").obstacle, preload_obstacle::setuid);
    ASSERT_EQ(::seteuid(0), 0);
}

}  // namespace
}  // namespace vmsgr::base
