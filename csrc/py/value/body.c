/* Bodies of tasks and results; see value/body.h. */
#include "value/body.h"

#include "base/error.h"
#include "value/decoder.h"
#include "value/encoder.h"
#include "value/pickle.h"

int
py_body_put(struct py_state *state, PyObject *obj, struct cp_buf *out,
            bool *ran_code)
{
    int r = atomic_load(&state->replaced)
                ? 0
                : py_encode(state, out, obj, ran_code);
    if (r == 0 && ran_code != NULL) {
        *ran_code = true;
    }
    return r == 0 ? py_dumps(state, obj, out) : r < 0 ? -1 : 0;
}

PyObject *
py_body_get(struct py_state *state, const uint8_t *bytes, size_t len,
            const struct cp_loan *loan)
{
    if (!py_decode_owns(bytes, len)) {
        return py_loads(state, bytes, len);
    }
    PyObject *obj;
    int r = py_decode(state, bytes, len, loan, &obj);
    return r == 0 ? obj : py_raise(state, r);
}

PyObject *
py_body_of_sealed(struct py_state *state, struct cp_sealed *sealed)
{
    struct cp_sheet *sheet;
    struct cp_loan *loan;
    const uint8_t *body;
    size_t len;
    int r = cp_sealed_view(sealed, &sheet, &body, &len, &loan);
    if (r != 0) {
        return py_raise(state, r);
    }
    PyObject *obj = py_body_get(state, body, len, loan);
    cp_loan_close(loan);
    cp_sheet_unref(sheet);
    return obj;
}
