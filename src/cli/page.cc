// vmsgr page: where the status page is, with a key to it.
#include <cstdio>

#include "cli/cli.hh"
#include "cli/stats.hh"

namespace vmsgr::cli {

command add_page(CLI::App& app, const options& o) {
    app.footer(
        "Prints the address of vmsgrd's status page. The key in it is yours: whoever opens the address sees what\n"
        "`vmsgr status` shows to you. It ends after a day, when access changes, and with vmsgrd. The page is for\n"
        "browsers on this host; from another, with the port of the address:\n"
        "  ssh -L 9847:127.0.0.1:9847 HOST 'vmsgr page; sleep 1d'\n\n"
        "Examples:\n  vmsgr page\n  xdg-open \"$(vmsgr page)\"");
    return {[&o] {
        const auto doc = ask_stats(o.socket, "page");
        if (!doc) {
            return say_error(exit_no_daemon, "page: " + doc.error().text);
        }
        if (doc->contains("error")) {
            return say_error(exit_failure, "page: " + text_of(*doc, "error"));
        }
        const auto url = "http://" + text_of(*doc, "address") + "/#" + text_of(*doc, "key");
        puts((o.json ? json{{"url", url}}.dump() : url).c_str());
        return int(exit_ok);
    }};
}

}  // namespace vmsgr::cli
