// Tokens of one turn of an event loop.
//
// A server that answers many in one turn wakes one reader after the other while it still works; each comes too early
// for the next message, and takes the processor. So what a loop sends in a turn is published at once, and the readers
// that sleep are woken at its end, before the loop waits again, or does anything else that may sleep and that this
// library sees. Only where a turn usually has more than one to wake: a single answer goes at once.
//
// A thread that owes a token and then sleeps where nobody sees it (a mutex, a file) may be waiting for the very answer.
// So a thread of the library's own, the ringer, sends what has been owed for half a millisecond; it looks twice a
// millisecond while tokens are owed, and sleeps when none was for a while. Programs that have only one thread get no
// second one, and owe nothing.
//
// To the other end this is a sender that is slow between its publication and its token (models/wake.pml has such).
#pragma once

namespace vmsgr::client {

class stream;

// The thread's loop waits: what it owes is sent. Any other call that may sleep says the same.
void end_turn() noexcept;
// It has events. Not in a signal handler: a thread may be started.
void begin_turn() noexcept;
bool is_in_turn() noexcept;
// The reader of s, which has number fd, sleeps: may its token wait? In a turn, under the send lock of s. False: send
// it.
bool owe_token(int fd, const stream& s) noexcept;
// Of all threads. Before a descriptor gets other holders, or this program is replaced.
void pay_owed_tokens() noexcept;
// Before a filter of system calls may forbid the ringer's. None is started afterwards.
void stop_ringer() noexcept;
// In the child of a fork: its parent has paid.
void forget_owed_tokens() noexcept;

}  // namespace vmsgr::client
