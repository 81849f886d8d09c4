/* error-pending: after an error everything is synchronous, until an error is reported. */
bool pending = false;
#define MAY_GO_ASYNC(page) (!pending)
#define NOTE_ERROR(page) pending = true
#define NOTE_REPORT(page) pending = false
#include "machine.inc"

/* What was refused comes back. */
ltl async_comes_back { [] (pending -> <> !pending) }
