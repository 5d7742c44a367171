// Where a document goes, on its way to the client that has asked for it: in pieces, as the client reads them.
// Shard 0 only.
#pragma once

#include <exception>
#include <string_view>

#include <seastar/core/future.hh>

namespace vmsgr::attach {

// Nobody reads on: the client has gone, or has not read for long. Whoever writes the document gives up.
struct reader_gone : std::exception {
    const char* what() const noexcept override { return "nobody reads the document"; }
};

class document_writer {
public:
    // More of the text, which is copied or sent when this is done. Throws reader_gone.
    virtual seastar::future<> write(std::string_view text) = 0;

protected:
    ~document_writer() = default;
};

}  // namespace vmsgr::attach
