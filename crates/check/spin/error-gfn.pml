/* error-gfn: the last page whose asynchronous fault failed goes the synchronous way. */
byte last = 255;
#define MAY_GO_ASYNC(page) (last != page)
#define NOTE_ERROR(page) last = page
#define NOTE_REPORT(page) skip
#include "machine.inc"
