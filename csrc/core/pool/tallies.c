/* Freeing what was counted; see pool/tallies.h. */
#include "pool/tallies.h"

#include <stdlib.h>

void
cp_tallies_free(struct cp_tallies *tallies)
{
    free(tallies->workers);
    tallies->workers = NULL;
    for (size_t i = 0; i < CP_LONGEST; i++) {
        free(tallies->longest[i].func);
        tallies->longest[i].func = NULL;
    }
}
