/* The leases that a receiver got with one body. */
#ifndef CP_LOAN_H
#define CP_LOAN_H

#include "share/region.h"

struct cp_loan {
    uint32_t n;
    struct cp_lease *leases[];
};

/* Drop the references to the leases; NULL is fine. [any] */
void cp_loan_close(struct cp_loan *loan);

#endif
