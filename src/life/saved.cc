// A connection as bytes, for the process that carries it on: version, the fields in their order, the error as four
// little-endian bytes, and at last the sum of all bytes before.
#include <numeric>

#include "life/connection.hh"

namespace vmsgr::life {

namespace {

constexpr uint8_t version = 1;
constexpr size_t flags_at = 7, error_at = 8, zeros_at = 12, sum_at = 15;
static_assert(sum_at + 1 == connection::saved_bytes);

uint8_t sum_of(std::span<const std::byte> bytes) noexcept {
    return std::accumulate(bytes.begin(), bytes.end(), uint8_t{0},
                           [](uint8_t sum, std::byte b) { return uint8_t(sum + uint8_t(b)); });
}

// False: the byte is no value of the enum.
template <typename Enum>
bool take(std::byte b, Enum last, Enum& out) noexcept {
    out = Enum(uint8_t(b));
    return uint8_t(b) <= uint8_t(last);
}

}  // namespace

connection::saved connection::save() const noexcept {
    saved b{};
    const uint8_t flags = uint8_t(given_back | read_shut << 1 | stopping << 2 | orphan << 3);
    size_t i = 0;
    for (uint8_t value :
         {version, uint8_t(at), uint8_t(out), uint8_t(in), uint8_t(program), uint8_t(far), uint8_t(why), flags}) {
        b[i++] = std::byte(value);
    }
    for (size_t byte = 0; byte < sizeof error; ++byte) {
        b[error_at + byte] = std::byte(uint32_t(error) >> 8 * byte);
    }
    b[sum_at] = std::byte(sum_of(std::span(b).first(sum_at)));
    return b;
}

std::expected<connection, const char*> connection::restore(std::span<const std::byte> bytes) noexcept {
    if (bytes.size() != saved_bytes) {
        return std::unexpected("a saved connection has 16 bytes");
    }
    if (uint8_t(bytes[0]) != version) {
        return std::unexpected("saved by another version");
    }
    if (uint8_t(bytes[sum_at]) != sum_of(bytes.first(sum_at))) {
        return std::unexpected("the sum of the bytes is wrong");
    }
    connection c;
    const bool known = take(bytes[1], phase::over, c.at) && take(bytes[2], way::ended, c.out) &&
                       take(bytes[3], way::ended, c.in) && take(bytes[4], side::killed, c.program) &&
                       take(bytes[5], side::killed, c.far) && take(bytes[6], cause::recalled, c.why);
    const auto flags = uint8_t(bytes[flags_at]);
    if (!known || flags > 15) {
        return std::unexpected("a value that no field has");
    }
    for (size_t i = zeros_at; i < sum_at; ++i) {
        if (bytes[i] != std::byte{0}) {
            return std::unexpected("a byte is set that means nothing");
        }
    }
    c.given_back = (flags & 1) != 0;
    c.read_shut = (flags & 2) != 0;
    c.stopping = (flags & 4) != 0;
    c.orphan = (flags & 8) != 0;
    uint32_t error = 0;
    for (size_t byte = 0; byte < sizeof error; ++byte) {
        error |= uint32_t(bytes[error_at + byte]) << 8 * byte;
    }
    c.error = int32_t(error);
    if (const char* rule = c.impossible()) {
        return std::unexpected(rule);
    }
    return c;
}

// What apply() never makes. The unit test compares this with the states that it reaches.
const char* connection::impossible() const noexcept {
    const bool recall = why == cause::recalled, failed = why == cause::connect_failed;
    const bool decided = at == phase::established || at == phase::closing;
    const bool told = failed || why == cause::far_error || why == cause::rules_broken || why == cause::aborted ||
                      (stopping && over());
    const bool nothing_moved = in == way::open && out != way::ended && far == side::held && !orphan;
    // All is sent that somebody waited for.
    const bool settled = out == way::ended && (orphan || program == side::shut || (stopping && !gone()));
    const struct {
        bool broken;
        const char* text;
    } rules[] = {
        {over() != (why != cause::none), "a connection is over for a cause, and only then"},
        {given_back != (failed || recall), "a socket is given back by a recall or a failed connect, and only then"},
        {!recall && (error != 0) != (told && !gone()),
         "a program is told of an end that is not its own, and only then"},
        {recall && settled && !gone() && (error != 0) != stopping, "a recall changed what the program was told before"},
        {error != 0 && (!over() || gone()), "an error was told before the end, or to a program that had left"},
        {at == phase::connecting && (!nothing_moved || program != side::held || stopping),
         "something moved before the connection was made"},
        {(failed || why == cause::cancelled) && (!nothing_moved || program == side::shut || stopping),
         "something moved, but the connection was never made"},
        {failed && gone(), "a failed connect was told to a program that had left"},
        {why == cause::cancelled && !gone(), "a connect was cancelled by a program that is still there"},
        {decided && (at == phase::closing) != (out == way::ended || in != way::open || program != side::held),
         "a connection is closing once a direction or the program has ended, and only then"},
        {far == side::shut && in != way::fin, "the far side has sent its end of file, but the program has none"},
        {in == way::fin && far == side::held, "the program has an end of file that the far side did not send"},
        {in == way::ended && !gone() && far != side::killed && program != side::shut,
         "nothing reaches the program, but no side has left"},
        {program == side::shut && (out == way::open || in == way::open || (in != way::fin && !read_shut)),
         "both directions are shut down, but one is open"},
        {orphan && !gone(), "an orphan has its program"},
        {settled && why != cause::in_order && why != cause::stopped && why != cause::cut && !recall,
         "all is sent that was waited for, but it did not end the connection"},
        {why == cause::in_order &&
             (out != way::ended || (stopping && settled) || !(gone() || program == side::shut || in == way::fin)),
         "an end in order came before all was sent, or it was stopped"},
        {why == cause::stopped && (!stopping || (out != way::ended && (!nothing_moved || program != side::held))),
         "it was stopped without a word, or before all was sent"},
        {why == cause::cut && (!stopping || out != way::ended || program != side::held),
         "it was cut, but nothing was to follow, or not all was sent"},
        {why == cause::far_error && far != side::left && far != side::killed, "a far side failed that is still there"},
        {why == cause::timed_out && !orphan && program != side::shut && !stopping, "it timed out, but nobody waited"},
    };
    for (const auto& rule : rules) {
        if (rule.broken) {
            return rule.text;
        }
    }
    return nullptr;
}

}  // namespace vmsgr::life
