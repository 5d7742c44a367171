#include "conf/reader.hh"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <vector>

#include "base/unique_fd.hh"
#include "conf/words.hh"

namespace vmsgr::conf {

namespace {

int line_of(const YAML::Node& n, int otherwise) { return n.Mark().is_null() ? otherwise : n.Mark().line + 1; }

std::string kind_of(const YAML::Node& n) {
    return n.IsScalar()     ? "is " + quote(n.Scalar())
           : n.IsSequence() ? "is a list"
           : n.IsMap()      ? "is a mapping"
                            : "has no value";
}

std::optional<uint64_t> to_number(std::string_view text, std::string_view& rest) {
    uint64_t n = 0;
    auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (ec != std::errc{}) {
        return std::nullopt;
    }
    rest = text.substr(size_t(end - text.data()));
    return n;
}

// K, M, G (also KiB, MiB, GiB): powers of 1024. 0: no unit.
unsigned unit_shift(std::string_view unit) {
    constexpr std::string_view letters = "KMG";
    if (unit.size() != 1 && (unit.size() != 3 || !unit.ends_with("iB"))) {
        return 0;
    }
    auto at = letters.find(char(toupper(static_cast<unsigned char>(unit[0]))));
    return at == letters.npos ? 0 : unsigned(10 * (at + 1));
}

class document_starts final : public YAML::EventHandler {
public:
    int line = 0;
    void OnDocumentStart(const YAML::Mark& m) override { line = m.line + 1; }
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
};

// The line in which something begins after the first document. YAML::Load ignores it, and YAML::LoadAll never
// ends on text such as ",a" (yaml-cpp 0.8), so the documents are counted here, up to the second.
std::optional<int> second_document(const std::string& text) {
    std::istringstream in(text);
    YAML::Parser parser(in);
    document_starts starts;
    bool second = parser.HandleNextDocument(starts) && parser.HandleNextDocument(starts);
    return second ? std::optional(starts.line) : std::nullopt;
}

std::string_view line_text(std::string_view text, int line) {
    for (; line > 1 && text.find('\n') != text.npos; --line) {
        text = text.substr(text.find('\n') + 1);
    }
    return text.substr(0, text.find('\n'));
}

}  // namespace

std::nullopt_t reader::refuse(const spot& at, std::string_view text) {
    if (!_error) {
        std::string s = _name + ":" + std::to_string(at.line) + ": ";
        if (!at.path.empty()) {
            s += at.path + ": ";
        }
        _error = base::error{EINVAL, s.append(text)};
    }
    return std::nullopt;
}

std::nullopt_t reader::refuse_file(int errnum, std::string_view text) {
    if (!_error) {
        _error = base::error{errnum, (_name + ": ").append(text)};
    }
    return std::nullopt;
}

std::optional<spot> reader::document(std::string_view text) {
    try {
        if (auto line = second_document(std::string(text))) {
            std::string found(line_text(text, *line));
            return refuse({{}, "", *line}, found.starts_with("---") ? "a second YAML document begins here; expected one"
                                                                    : "not valid YAML: unexpected " + quote(found));
        }
        auto node = YAML::Load(std::string(text));
        if (node.IsNull()) {
            return refuse_file(EINVAL, "is empty; expected at least a 'routes:' list");
        }
        spot top{node, "", line_of(node, 1)};
        if (!node.IsMap()) {
            return refuse(top, "expected keys such as 'socket:' and 'routes:', found " +
                                   (node.IsSequence() ? std::string("a list") : quote(node.Scalar())));
        }
        return top;
    } catch (const YAML::Exception& e) {
        spot at{{}, "", e.mark.is_null() ? 1 : e.mark.line + 1};
        return refuse(at, "not valid YAML: " + one_line(e.msg));
    }
}

bool reader::mapping(const spot& at, std::initializer_list<field> fields) {
    if (!at.node.IsMap()) {
        refuse(at, kind_of(at.node) + ", expected a mapping of keys");
        return false;
    }
    std::vector<std::string_view> known;
    for (const auto& f : fields) {
        known.push_back(f.key);
    }
    std::vector<std::pair<std::string, int>> seen;
    for (const auto& entry : at.node) {
        if (failed()) {
            return false;
        }
        int line = line_of(entry.first, at.line);
        if (!entry.first.IsScalar()) {
            refuse({{}, at.path, line}, "a key here " + kind_of(entry.first) + ", expected a word");
            return false;
        }
        const std::string& key = entry.first.Scalar();
        bool plain = quote(key).size() == key.size() + 2;  // nothing to be escaped or cut
        spot value{entry.second, (at.path.empty() ? "" : at.path + ".") + (plain ? key : quote(key)), line};
        auto before = std::ranges::find(seen, key, &std::pair<std::string, int>::first);
        if (before != seen.end()) {
            refuse(value, "stands here a second time; the first is in line " + std::to_string(before->second));
            return false;
        }
        seen.emplace_back(key, line);
        auto f = std::ranges::find(fields, std::string_view(key), &field::key);
        if (f == fields.end()) {
            auto hint = did_you_mean(key, known);
            refuse(value, "unknown key" + (hint.empty() ? "; known are " + listed(known) : hint));
            return false;
        }
        f->read(value);
    }
    return !failed();
}

bool reader::list(const spot& at, std::string_view expected, const std::function<void(const spot&)>& each) {
    if (!at.node.IsSequence()) {
        refuse(at, kind_of(at.node) + ", expected " + std::string(expected));
        return false;
    }
    size_t i = 0;
    for (const auto& n : at.node) {
        each({n, at.path + "[" + std::to_string(i++) + "]", line_of(n, at.line)});
        if (failed()) {
            return false;
        }
    }
    return true;
}

std::optional<std::string> reader::scalar(const spot& at, std::string_view expected) {
    if (!at.node.IsScalar()) {
        return refuse(at, kind_of(at.node) + ", expected " + std::string(expected));
    }
    const std::string& text = at.node.Scalar();
    if (std::ranges::any_of(text, [](unsigned char c) { return c < ' ' || c == 127; })) {
        return refuse(at, quote(text) + " holds a control character, expected " + std::string(expected));
    }
    return text;
}

std::optional<uint64_t> reader::number(const spot& at, uint64_t min, uint64_t max) {
    std::string expected = "a number from " + std::to_string(min) + " to " + std::to_string(max);
    auto text = scalar(at, expected);
    if (!text) {
        return std::nullopt;
    }
    std::string_view rest;
    auto n = to_number(*text, rest);
    if (!n || !rest.empty() || *n < min || *n > max) {
        return refuse(at, quote(*text) + " is not " + expected);
    }
    return n;
}

std::optional<uint64_t> reader::size(const spot& at, uint64_t min, uint64_t max) {
    auto text = scalar(at, "a size such as 64K, 256M or 1G");
    if (!text) {
        return std::nullopt;
    }
    std::string_view unit;
    auto n = to_number(*text, unit);
    unsigned shift = unit_shift(unit);
    if (!n || (!unit.empty() && shift == 0)) {
        return refuse(at, quote(*text) + " is not a size; expected one such as 64K, 256M or 1G");
    }
    if (*n > (UINT64_MAX >> shift) || *n << shift < min || *n << shift > max) {
        return refuse(at, quote(*text) + " is not within " + size_text(min) + " and " + size_text(max));
    }
    return *n << shift;
}

std::optional<base::address> reader::endpoint(const spot& at, std::string_view expected) {
    auto text = scalar(at, expected);
    if (!text) {
        return std::nullopt;
    }
    auto a = base::parse_address(*text);
    if (!a || a->port == 0) {
        return refuse(at, quote(*text) + " is not " + std::string(expected));
    }
    return a;
}

std::optional<size_t> reader::word(const spot& at, std::span<const std::string_view> words) {
    auto text = scalar(at, "one of " + listed(words));
    if (!text) {
        return std::nullopt;
    }
    auto found = std::ranges::find(words, std::string_view(*text));
    if (found == words.end()) {
        return refuse(at, quote(*text) + " is not one of " + listed(words) + did_you_mean(*text, words));
    }
    return size_t(found - words.begin());
}

std::optional<std::string> read_file(const std::string& path, reader& r) {
    base::unique_fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd) {
        return r.refuse_file(base::os_error("cannot be read"));
    }
    struct stat st;
    if (::fstat(fd.get(), &st) == 0 && S_ISDIR(st.st_mode)) {
        return r.refuse_file(EISDIR, "is a directory, expected a file");
    }
    std::string text;
    char buf[16384];
    for (;;) {
        ssize_t n = ::read(fd.get(), buf, sizeof buf);
        if (n < 0) {
            return r.refuse_file(base::os_error("cannot be read"));
        }
        if (n == 0) {
            return text;
        }
        text.append(buf, size_t(n));
        if (text.size() > config_bytes_max) {
            return r.refuse_file(EFBIG, "is larger than " + size_text(config_bytes_max));
        }
    }
}

}  // namespace vmsgr::conf
