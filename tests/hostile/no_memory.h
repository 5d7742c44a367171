// A program that has no memory for a while: its malloc and what is like it, for all libraries of the process, its own
// thread's calls alone. Linked into a test's program (no_memory.c).
#pragma once

// While it is on, the allocation with the number $FAIL_ALLOCATION fails (0: none, -1: each one).
void lack_memory(int on);
// How many there were while it was.
long allocations(void);

// A call of ours with too little memory, and errno as it left it.
long lacked(long result);
#define LACKING(call) (lack_memory(1), lacked((long)(call)))
