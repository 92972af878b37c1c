/* The fuzzer's parts: what is called (fuzz_calls.c), and what comes of it (fuzz.c). */
#ifndef FUZZ_H
#define FUZZ_H

#include "caller.h"

#define ROOM "/run/stage/w" /* where all happens */
enum {
    HELPERS = 2,  /* threads or processes beside the first */
    LINE = 2048,  /* the longest line */
    WATCHED = 20, /* the descriptors by which files are looked at begin here */
};
#define LENGTH(array) (sizeof array / sizeof *array)

/* How a sequence is played: see fuzz.c. */
extern enum how { WIDE, PLACED, FOLDED } how;

/* What a sequence or a step is made from. */
void seed(unsigned number, unsigned step);
unsigned upto(unsigned n);
#define ANY(array) (array)[upto(LENGTH(array))]

/* The ids of a sequence. Distinct: no two of them have one place. */
extern unsigned ids[10];
void choose_ids(int distinct);
unsigned asked(unsigned id);

/* Of a call: it answers with an id; it makes namespaces; it and the next ones are made at once. */
enum { IS_ID = 1, IS_UNSHARE = 2, IS_PARALLEL = 4 };

struct call {
    enum abi abi;
    int kind;
    unsigned long nr, args[6];
    char text[LINE];
    void *array, *copy; /* must be the same afterwards */
    size_t size;
    long ret;
    char wrong[128];
};

/* Makes it, and sees that nothing else has changed. */
void make(struct call *c);

/* Memory for what calls point at. */
void make_memory(void);
/* A call, as this many arguments say. */
void plain(struct call *c, const char *text, unsigned long nr, unsigned long a, unsigned long b, unsigned long d, unsigned long e, unsigned long f);
/* Calls by which a thread becomes a user with some capabilities: how many. */
int become(struct call *c);
/* The calls of a step: how many. */
int any_step(struct call *c, int threads);

#define CAPABILITY "security.capability", sizeof "security.capability"
extern unsigned file_capability[5];

#endif
