/* See share/loan.h. */
#include "share/loan.h"

#include <stdlib.h>

void
cp_loan_close(struct cp_loan *loan)
{
    for (uint32_t i = 0; loan != NULL && i < loan->n; i++) {
        cp_lease_close(loan->leases[i]);
    }
    free(loan);
}
