/* retry: Linux to this day. The error is dropped. */
#define MAY_GO_ASYNC(page) (true)
#define NOTE_ERROR(page) skip
#define NOTE_REPORT(page) skip
#include "machine.inc"
