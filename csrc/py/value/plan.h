/*
 * Plans: how the objects of a class are sent. Finding that out takes longer
 * than sending a small object, so a plan is kept from body to body until the
 * class changes. A plan does not keep its class alive. [attached]
 */
#ifndef PY_PLAN_H
#define PY_PLAN_H

#include "value/array.h"
#include "value/named.h"
#include "value/standard.h"
#include "value/writer.h"

enum py_rule {
    RULE_UNKNOWN,     /* not looked for yet */
    RULE_NAME,        /* a class or function: its name */
    RULE_REDUCE,      /* ask the object (__reduce_ex__()) */
    RULE_PLAIN,       /* object.__reduce_ex__() reads __dict__ and slots */
    RULE_NAMED_TUPLE, /* made of its items */
    RULE_MEMBER,      /* of an Enum: its class is called with its value */
    RULE_EXCEPTION,   /* BaseException.__reduce__() reads args and __dict__ */
    RULE_ARRAY,       /* an array of numpy */
    RULE_SCALAR,      /* a number of numpy */
    RULE_STANDARD,    /* of the standard library: see value/standard.h */
};

/* What objects with RULE_PLAIN consist of, besides their attributes. */
enum py_held {
    HELD_NOTHING,
    HELD_ITEMS,         /* those of a list */
    HELD_PAIRS,         /* those of a dict */
    HELD_ORDERED_PAIRS, /* those of an OrderedDict */
    HELD_DEFAULTS,      /* those of a defaultdict */
    HELD_QUEUED,        /* those of a deque */
};

struct py_plan {
    struct py_plan *next;      /* in the same bucket of the table */
    struct py_plan *next_used; /* the next plan in use for this body */
    PyTypeObject *type;        /* a reference while used; else an address */
    unsigned version;          /* of the class; 0: valid for this body only */
    bool used;                 /* in use for this body */
    enum py_rule rule;
    enum py_held held;
    enum py_standard standard; /* RULE_STANDARD */
    bool small;                /* may be sent more than once, as strings may */
    bool runs_code;            /* asking an object runs code of the program */
    bool sees_state;   /* RULE_PLAIN: setting attributes runs such code */
    bool registered;   /* the reducer comes from a table */
    PyObject *reducer; /* or NULL */
    PyObject *slots;   /* RULE_PLAIN: a tuple of names; or NULL */
    struct py_class_name own_name; /* see value/named.h */
};

/* Do objects of the class have a __dict__? */
static inline bool
py_plan_has_dict(const PyTypeObject *type)
{
    return type->tp_dictoffset != 0
           || (type->tp_flags & Py_TPFLAGS_MANAGED_DICT) != 0;
}

/* Is it a member of an Enum? */
static inline bool
py_plan_is_member(const struct py_writer *w, PyObject *obj)
{
    return (PyObject *)Py_TYPE(Py_TYPE(obj)) == w->state->enum_type;
}

/* The plan of the class, valid during this body: 1; 0 if a pickler of the
 * program's has to be used; or -1 with an exception. May run Python code. */
int py_plan_find(struct py_writer *w, PyTypeObject *type,
                 struct py_plan **plan);

/* The same without a rule: only for the name of the class. */
int py_plan_of_class(struct py_writer *w, PyTypeObject *type,
                     struct py_plan **plan);

/* A body ends: give the plans back to the state. */
void py_plan_leave(struct py_writer *w);

/* Drop the plans that the state keeps. */
void py_plan_forget(struct py_state *state);

#endif
