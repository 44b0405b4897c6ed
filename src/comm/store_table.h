/* What the store knows and answers, without its sockets: keys, ranks, the verdict. */
#ifndef DS_COMM_STORE_TABLE_H
#define DS_COMM_STORE_TABLE_H

#include "comm/membership.h"
#include "comm/store_wire.h"

typedef struct ds_store_entry {
    uint8_t *key, *value;
    size_t key_size, value_size;
} ds_store_entry;

typedef struct ds_store_seat {
    bool came, left; /* said hello; said farewell */
    double heard_s;  /* when it was last heard of */
    double lost_s;   /* when its connection ended without a farewell; 0: it did not */
    uint8_t here[sizeof(ds_whereabouts)];
    size_t here_size;
} ds_store_seat;

typedef struct ds_store_table {
    char *token;
    int size;
    double lease_s, judged_s;
    ds_store_entry *entries;
    size_t n_entries, capacity, n_bytes;
    ds_store_seat *seats; /* [size] */
    ds_status status;     /* the verdict: DS_OK until there is one */
    char reason[DS_ABORT_TEXT];
} ds_store_table;

typedef struct ds_store_visitor { /* one connection */
    bool known, told;             /* said hello with the token; was told the verdict */
    int rank;                     /* −1: none */
    uint8_t *waits_for;           /* key; NULL: for none */
    size_t waits_size;
    double waits_until_s;
} ds_store_visitor;

ds_status ds_store_table_init(ds_store_table *t, const char *token, int size, double lease_s);
void ds_store_table_clear(ds_store_table *t);
ds_store_visitor ds_store_visitor_new(void);

/* Answers a frame into out. False: the connection is to be closed after that. */
bool ds_store_table_answer(ds_store_table *t, ds_store_visitor *v, const ds_frame *frame,
                           double now_s, ds_text *out);
/* What this visitor should hear unasked: the key it waits for, the verdict. */
void ds_store_table_update(ds_store_table *t, ds_store_visitor *v, double now_s, ds_text *out);
/* The connection has ended. */
void ds_store_table_lost(ds_store_table *t, ds_store_visitor *v, double now_s);
/* Looks who has died. Called after everything that has come was answered. */
void ds_store_table_judge(ds_store_table *t, double now_s);
void ds_store_table_abort(ds_store_table *t, ds_status status, const char *reason);
bool ds_store_table_all_left(const ds_store_table *t);

#endif
